"""The regions that `export` and `explore` are about: those of a cache, or of annotations."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import console
from pipeline.console import counts
from pipeline.verbs.explore import RegionSettings, is_cache
from regionspot_cache.datasets import DetectionDataset, load_dataset, load_source
from regionspot_cache.datasets.region_file import CATEGORY
from regionspot_cache.datasets.regions import BoxPolicy
from regionspot_cache.errors import InputError, MissingFileError
from regionspot_cache.store import Cache, match, open_cache
from regionspot_cache.store.labelled import BOX_NOT_CACHED, IMAGE_NOT_CACHED

NOT_ANNOTATED = "box without annotation"


@dataclass(frozen=True, kw_only=True)
class RegionSet:
    """Images with boxes.

    Attributes:
        dataset: the images and boxes.
        labelled: whether the labels are classes; boxes that nobody named have none.
        cache: path of the cache that it is about, or None for annotations.
        left_out: what is not among them, by reason.
    """

    dataset: DetectionDataset
    labelled: bool
    cache: str | None
    left_out: Counter[str]


def read_region_set(source: str, settings: RegionSettings) -> RegionSet:
    """The images and boxes of a cache, with their annotations if these can be read, or of annotations.

    Raises:
        MissingFileError, InputError, IncompleteError: as reading a cache or annotations does.
        InputError: there is no box.
    """
    found = _of_cache(source, settings) if is_cache(source) else _of_annotations(source, settings)
    if found.left_out:
        console.warn(f"{source}: left out {counts(found.left_out)}")
    if not found.dataset.num_boxes:
        raise InputError(f"{source} has no box.", "At least one region.", "Another source.")
    return found


def _of_annotations(source: str, settings: RegionSettings) -> RegionSet:
    with console.progress("drawing shapes", 1) as ticker:
        dataset = load_dataset(
            source,
            data_root=settings.data,
            images=settings.images,
            limit=settings.limit,
            seed=settings.seed,
            progress=lambda done, total: ticker.update(done, "images", total=total),
        )
    return RegionSet(
        dataset=dataset, labelled=_has_classes(dataset), cache=None, left_out=Counter(dataset.dropped)
    )


def _of_cache(source: str, settings: RegionSettings) -> RegionSet:
    cache = open_cache(source)
    if settings.images is not None and not settings.images.is_dir():
        found = f"There is no image folder {settings.images}."
        raise MissingFileError(found, "The folder that the file names start from.", "--images DIR")
    dataset = _annotations(cache, settings)
    if dataset is None:
        dataset, labelled, left_out = _of_boxes(cache, settings), False, Counter[str]()
    else:
        labelled, (dataset, left_out) = _has_classes(dataset), _cached_alone(dataset, cache)
    return RegionSet(
        dataset=dataset.sample(settings.limit, settings.seed),
        labelled=labelled,
        cache=source,
        left_out=left_out,
    )


def _annotations(cache: Cache, settings: RegionSettings) -> DetectionDataset | None:
    """The annotations of a cache as they are now, or None with a warning where there are none."""
    source = cache.source
    if source is None:
        console.warn(f"{cache.url} names no annotations: its regions have no classes")
        return None
    if settings.images is not None:
        source = replace(source, images=str(settings.images.absolute()))
    if not Path(source.data_root).is_dir():  # everything was moved
        source = replace(source, data_root=str(settings.data.absolute()))
    try:
        return load_source(source, require_images=False, known_names=cache.file_names)
    except MissingFileError as error:
        console.warn(f"the regions of {cache.url} have no classes: {error.found}")
        return None


def _has_classes(dataset: DetectionDataset) -> bool:
    """Whether the boxes were named; those of a proposer are all of one category."""
    return dataset.class_names != (CATEGORY,)


def _cached_alone(dataset: DetectionDataset, cache: Cache) -> tuple[DetectionDataset, Counter[str]]:
    """What of the dataset is in the cache; and how many of both are not in the other."""
    found = match(dataset, cache, cache.live)
    images = np.flatnonzero(found.images >= 0)
    owner = np.repeat(found.images, np.diff(dataset.offsets))
    plain = cache.live if cache.views is None else cache.live & (cache.views == 0)
    cached = int(np.diff(cache.offsets)[plain].sum())
    kept = found.boxes >= 0
    left_out = Counter(
        {
            IMAGE_NOT_CACHED: len(dataset) - len(images),
            BOX_NOT_CACHED: int((~kept & (owner >= 0)).sum()),
            NOT_ANNOTATED: cached - len(np.unique(found.boxes[kept])),
        }
    )
    return _with_boxes(dataset, kept).select(images), +left_out


def _with_boxes(dataset: DetectionDataset, kept: NDArray[np.bool_]) -> DetectionDataset:
    """The dataset with these of its boxes."""
    before = np.concatenate([[0], np.cumsum(kept)])
    return replace(
        dataset,
        offsets=before[dataset.offsets],
        boxes=dataset.boxes[kept],
        labels=dataset.labels[kept],
        annotation_ids=dataset.annotation_ids[kept],
        crowd=dataset.crowd[kept],
    )


def _of_boxes(cache: Cache, settings: RegionSettings) -> DetectionDataset:
    """The images and boxes of a cache alone; boxes are numbered as the cache has them."""
    plain = cache.live if cache.views is None else cache.live & (cache.views == 0)
    images = np.flatnonzero(plain)
    ids, names = zip(*(cache.image(i) for i in images.tolist()), strict=True)
    whole = DetectionDataset(
        name=Path(cache.url).name,
        split="",
        format="coco",
        image_root=settings.images or Path(cache.image_root),
        annotation_files=(),
        annotation_sha256="",
        class_names=(CATEGORY,),
        category_ids=np.ones(1, np.int64),
        class_frequency=("",),
        class_novel=(False,),
        image_ids=list(range(cache.num_images)),
        file_names=list(cache.file_names),
        widths=cache.all_sizes[:, 0],
        heights=cache.all_sizes[:, 1],
        offsets=cache.offsets,
        boxes=cache.all_boxes,
        labels=np.zeros(cache.num_boxes, np.int32),
        annotation_ids=np.arange(cache.num_boxes, dtype=np.int64),
        crowd=np.zeros(cache.num_boxes, bool),
        policy=BoxPolicy(),
        exif=cache.exif,
    )
    return replace(whole.select(images), image_ids=list(ids), file_names=list(names))
