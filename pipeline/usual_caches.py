"""The folder where caches lie when no path is given: whose each one is, and which show the same pictures."""

from itertools import count
from pathlib import Path

from pipeline.places import WORKPLACE
from regionspot_cache.backbones import BackboneSpec
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.errors import RegionSpotError
from regionspot_cache.extraction.run import has_cache
from regionspot_cache.store.identity import CACHE_KEY, CacheRecord
from regionspot_cache.store.objects import open_objects

CACHES = WORKPLACE / "caches"


def cache_path(given: str | None, dataset: DetectionDataset, spec: BackboneSpec) -> str:
    """The given cache, or the usual place of the cache of this dataset and backbone: its name is theirs, with
    a number behind it where other pictures with annotations of the same name came first."""
    if given:
        return given
    views = "views" if dataset.augmentation else ""
    name = "-".join(part for part in (dataset.name, dataset.split, spec.name, views) if part)
    place, number = CACHES / name, count(2)
    while _is_of_others(place, dataset):
        place = CACHES / f"{name}-{next(number)}"
    return str(place)


def caches_beside(dataset: DetectionDataset) -> list[str]:
    """Caches of the usual folder whose image folder is that of a dataset, lies in it or around it."""
    places = sorted(path.parent for path in CACHES.glob(f"*/{CACHE_KEY}"))
    records = [(place, record) for place in places if (record := _record(place)) is not None]
    root = Path(dataset.image_root)
    return [
        str(place)
        for place, record in records
        if are_nested(Path(record.image_root), root) and record.identity["exif"] == dataset.exif
    ]


def are_nested(one: Path, other: Path) -> bool:
    """Whether two folders are one, or one lies in the other."""
    one, other = one.resolve(), other.resolve()
    return one.is_relative_to(other) or other.is_relative_to(one)


def _is_of_others(place: Path, dataset: DetectionDataset) -> bool:
    """Whether a cache is there, of another annotation file with other pictures; files that are gone were
    moved, so their cache is the dataset's."""
    record = _record(place) if has_cache(place) else None
    if record is None or record.source is None or dataset.source is None:
        return False
    theirs, ours = Path(record.source.dataset), Path(dataset.source.dataset)
    if theirs == ours or not (theirs.is_file() and ours.is_file()):
        return False
    return not are_nested(Path(record.image_root), Path(dataset.image_root))


def _record(place: Path) -> CacheRecord | None:
    """None for what cannot be read: whoever opens it says why."""
    try:
        return CacheRecord.read(open_objects(place))
    except RegionSpotError:
        return None
