"""The built-in networks know the built-in world only: on photographs they must be asked for by name."""

from pathlib import Path

from pipeline import console
from pipeline.names import check_dataset, is_built_in
from regionspot_cache.errors import RegionSpotError, UsageError

ONLY_SHAPES = "The built-in `tiny` networks know drawn shapes only; on photographs their names mean nothing."
BACKBONE_FILE = "backbone.yaml"


def require_named_backbone(what: str | Path, *also: str) -> None:
    """Refuses networks that nobody asked for.

    Args:
        what: the dataset, or the path of an image.
        also: other options that name networks.

    Raises:
        UsageError: `what` is not of the built-in world.
    """
    if isinstance(what, str):
        check_dataset(what)
    if is_of_shapes(what):
        return
    raise UsageError(
        f"No networks are named for {what}. {ONLY_SHAPES}",
        " or ".join((*also, "--backbone bb, bl or bl336 (tiny to insist), or a YAML file.")),
    )


def warn_of_photographs(networks: str | Path, what: str | Path) -> None:
    """One loud warning where the built-in networks are about to see something else than their world.

    Args:
        networks: a preset or backbone file, or the folder of a checkpoint.
        what: the dataset, or the path of an image.
    """
    if not is_of_shapes(what) and _are_tiny(networks):
        console.warn(f"{ONLY_SHAPES} What follows for {what} is a test of the machinery, not an answer.")


def is_of_shapes(what: str | Path) -> bool:
    """Whether a dataset is the built-in world, or an image lies in a drawn one."""
    if isinstance(what, str):
        return is_built_in(what)
    around = what.absolute().parents
    return any(folder.name == "shapes" and (folder / "COMPLETE").is_file() for folder in around)


def _are_tiny(networks: str | Path) -> bool:
    from regionspot_cache.backbones.presets import load_preset

    file = networks / BACKBONE_FILE if isinstance(networks, Path) else networks
    try:
        spec = load_preset(file)
    except RegionSpotError:  # said by what loads the networks
        return False
    return any(part.model == "packaged" for part in spec.parts.values())
