"""Places: the shipped configuration files, and the folder that verbs work in when no path is given."""

from pathlib import Path

from regionspot_cache.errors import UsageError

WORKPLACE = Path("rs-cache-data")
HERE = Path(__file__).parent
FOLDER = next((f for f in (HERE.parent / "configs", HERE / "configs") if f.is_dir()), HERE / "configs")


def shipped(name: str) -> Path:
    """The shipped config `name`, such as `train/shapes.yaml`."""
    path = FOLDER / name
    if not path.is_file():
        raise UsageError(f"No shipped config {name}.", f"One of the files under {FOLDER}.")
    return path
