"""Places: the shipped configuration files, and the folder that verbs work in when no path is given."""

from pathlib import Path

from regionspot_cache.errors import MissingFileError, UsageError, near, one_of

WORKPLACE = Path("rs-cache-data")
CONFIGS = Path(__file__).parent / "configs"  # a link to the folder at the top, a copy in an installed package


def shipped(name: str) -> Path:
    """The shipped config `name`, such as `train/shapes.yaml`."""
    path = CONFIGS / name
    if not path.is_file():
        names = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise UsageError(f"No shipped config {name}.", one_of(path.stem, names or [str(CONFIGS)]))
    return path


def shipped_names() -> list[str]:
    """All shipped configs, as `shipped` takes them."""
    return sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))


def find_config(file: Path, folder: str = "") -> Path:
    """A file of the user, or the shipped one of that name, where `configs/` and `folder` may be left out.

    Raises:
        MissingFileError: neither.
    """
    if file.exists() or file.is_absolute():
        return file
    name = file.as_posix().removeprefix("./").removeprefix("configs/")
    known = shipped_names()
    for candidate in (name, f"{folder}/{name}"):
        if candidate in known:
            return CONFIGS / candidate
    hint = near(name, known) or near(f"{folder}/{name}", known)
    raise MissingFileError(
        f"No config file at {file}.",
        f"{hint}A YAML file, or a shipped one by name.",
        f"ls {CONFIGS / folder}",
    )
