"""Places: the shipped configuration files, and the folder that verbs work in when no path is given."""

from pathlib import Path

from regionspot_cache.errors import UsageError

WORKPLACE = Path("rs-cache-data")
CONFIGS = Path(__file__).parent / "configs"  # a link to the folder at the top, a copy in an installed package


def shipped(name: str) -> Path:
    """The shipped config `name`, such as `train/shapes.yaml`."""
    path = CONFIGS / name
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise UsageError(f"No shipped config {name}.", f"One of {names or CONFIGS}.")
    return path
