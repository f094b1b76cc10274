"""One clear error for the usual broken installation: a torchvision that was built for another torch."""

from importlib.metadata import PackageNotFoundError, version

from regionspot_cache.errors import RegionSpotError


def check_torchvision() -> None:
    """Imports torch and torchvision side by side.

    Raises:
        RegionSpotError: torchvision is missing or was built for another torch (a CUDA build beside a CPU-only
            torch, for example); names both versions and the repair.
    """
    try:
        import torch  # noqa: F401  (torchvision's compiled operators need it loaded)
        import torchvision.ops  # noqa: F401
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        detail = " ".join(str(error).split())[:200]
        raise RegionSpotError(
            f"torchvision {_version('torchvision')} does not work beside torch {_version('torch')}: {detail}",
            "torch and torchvision of one release, both with CUDA or both without.",
            "make setup   (or: uv pip install --reinstall torch torchvision, the two together)",
        ) from error


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
