"""A dataset with extra views of its images: mirrored and cropped records beside the original ones."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.augmentation import (
    Augmentation,
    Frames,
    ViewTable,
    image_keys,
    to_view,
    view_sizes,
)
from regionspot_cache.datasets.records import DetectionDataset
from regionspot_cache.datasets.regions import Boxes, box_area, clean_boxes
from regionspot_cache.datasets.tables import Table, offsets_of
from regionspot_cache.errors import InputError

KEPT_SHARE = 0.4  # of its area that a box must keep in a crop
CUT_AWAY = "cut away"
WITHOUT_BOXES = "image: extra view without boxes"
_BLOCK = 1 << 15  # images whose boxes are moved at once, so that memory beside the result stays small


def with_views(dataset: DetectionDataset, augmentation: Augmentation) -> DetectionDataset:
    """The dataset followed by its records in every extra view; all views of an image share its id and file.

    Views keep the original's boxes as far as they can be seen: a crop drops those that lose more than 60 % of
    their area, and what its policy would not accept. Extra views without boxes are left out. `dropped` counts
    both, as "REASON in VIEW" and `WITHOUT_BOXES`. A dataset comes back as it is when no views are asked for;
    InputError when it has extra views already.
    """
    if augmentation.num_views == 1:
        return dataset
    if dataset.views is not None:
        raise InputError(f"{dataset.name} has extra views already", "a dataset without")
    sizes = np.stack([dataset.widths, dataset.heights], axis=1)
    keys = image_keys(dataset.image_ids, augmentation.seed)
    everything = np.arange(len(dataset))
    original = _Views(
        numbers=np.zeros(len(dataset), np.int32),
        origins=everything,
        frames=augmentation.frames(0, sizes, keys),
        counts=np.diff(dataset.offsets),
        rows=np.arange(len(dataset.boxes)),
        boxes=dataset.boxes,
    )
    dropped = dataset.dropped.copy()
    blocks = [everything[start : start + _BLOCK] for start in range(0, len(dataset), _BLOCK)]
    numbers = range(1, augmentation.num_views)
    extra = [
        _extra_view(dataset, augmentation, number, images, keys[images], sizes[images], dropped)
        for number in numbers
        for images in blocks
    ]
    views = _Views.concatenate([original, *extra])
    view_size = view_sizes(views.frames)
    return replace(
        dataset,
        image_ids=[dataset.image_ids[i] for i in views.origins],
        file_names=[dataset.file_names[i] for i in views.origins],
        widths=view_size[:, 0],
        heights=view_size[:, 1],
        offsets=offsets_of(views.counts),
        boxes=views.boxes,
        labels=dataset.labels[views.rows],
        annotation_ids=dataset.annotation_ids[views.rows],
        crowd=dataset.crowd[views.rows],
        dropped=dropped,
        views=ViewTable(numbers=views.numbers, origins=views.origins.astype(np.int32), frames=views.frames),
        augmentation=augmentation,
    )


@dataclass(frozen=True, kw_only=True)
class _Views(Table):
    """Columns of M records, those of a `ViewTable` and the number of boxes, and columns of their N boxes."""

    numbers: NDArray[np.int32]  # [M]
    origins: NDArray[np.int64]  # [M]
    frames: Frames  # [M, 6]
    counts: NDArray[np.int64]  # [M]
    rows: NDArray[np.int64]  # [N], of the dataset
    boxes: Boxes  # [N, 4]


def _extra_view(
    dataset: DetectionDataset,
    augmentation: Augmentation,
    number: int,
    images: NDArray[np.int64],
    keys: NDArray[np.uint64],
    sizes: NDArray[np.int32],
    dropped: Counter[str],
) -> _Views:
    """One view of a run of images, those without boxes left out; adds to `dropped`."""
    name = augmentation.names[number]
    frames = augmentation.frames(number, sizes, keys)
    size = view_sizes(frames)
    offsets = dataset.offsets[images[0] : images[-1] + 2]
    rows = np.arange(offsets[0], offsets[-1])
    owner = np.repeat(np.arange(len(images)), np.diff(offsets))
    boxes = to_view(dataset.boxes[rows], frames[owner])
    if name != "flip":
        kept, boxes, lost = _cut(boxes, dataset.labels[rows], size[owner], owner, dataset)
        rows, owner = rows[kept], owner[kept]
        dropped.update({f"{reason} in {name}": count for reason, count in lost.items()})
    if augmentation.jitter:
        least = dataset.policy.min_size
        boxes = augmentation.jittered(boxes, size[owner], keys[owner], number, rows - offsets[owner], least)
    counts = np.bincount(owner, minlength=len(images))
    shown = np.flatnonzero(counts)
    dropped.update({WITHOUT_BOXES: len(images) - len(shown)} if len(shown) < len(images) else {})
    return _Views(
        numbers=np.full(len(shown), number, np.int32),
        origins=images[shown],
        frames=frames[shown],
        counts=counts[shown],
        rows=rows,
        boxes=boxes,
    )


def _cut(
    boxes: Boxes,
    labels: NDArray[np.int32],
    size: NDArray[np.int32],
    images: NDArray[np.int64],
    dataset: DetectionDataset,
) -> tuple[NDArray[np.int64], Boxes, Counter[str]]:
    """Rows and boxes that remain when boxes are cut at the border of their view; the rest by reason."""
    inside = np.clip(boxes, 0, np.tile(size, 2))
    rows = np.flatnonzero(box_area(inside) >= KEPT_SHARE * box_area(boxes))
    clean = clean_boxes(
        inside[rows],
        labels[rows],
        width=size[rows, 0],
        height=size[rows, 1],
        images=images[rows],
        policy=replace(dataset.policy, clip=True),
    )
    return rows[clean.kept], clean.boxes, +Counter({CUT_AWAY: len(boxes) - len(rows)}) + clean.dropped
