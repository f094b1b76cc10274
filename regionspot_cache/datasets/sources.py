"""The data sets known by name: which files they consist of, where those go, and who offers them."""

from dataclasses import dataclass
from pathlib import Path

from regionspot_cache.config import validate
from regionspot_cache.yaml_text import read_yaml

_FILE = Path(__file__).with_name("sources.yaml")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One named data set, as sources.yaml explains it."""

    splits: tuple[str, ...]
    default_split: str = "train"
    annotations: tuple[str, ...]
    roots: tuple[str, ...]
    images: str
    origin: str


SOURCES = {name: validate(Source, values, _FILE.name) for name, values in read_yaml(_FILE).items()}

_CLASSES = ("class-descriptions-boxable.csv", "oidv7-class-descriptions-boxable.csv")
_SIZES = ("{split}_sizes-00000-of-00001.csv", "{split}-image-sizes.csv")
_FOLDERS = ("openimages/", "openimages/annotations/", "openimages/metadata/")
OPENIMAGES_CLASSES = tuple(folder + name for folder in _FOLDERS for name in _CLASSES)
OPENIMAGES_SIZES = tuple(folder + name for folder in _FOLDERS[:2] for name in _SIZES)
