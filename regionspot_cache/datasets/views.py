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
from regionspot_cache.errors import InputError

KEPT_SHARE = 0.4  # of its area that a box must keep in a crop
CUT_AWAY = "cut away"
WITHOUT_BOXES = "image: extra view without boxes"
_BLOCK = 1 << 15  # images whose boxes are moved at once, so that memory beside the result stays small


def with_views(dataset: DetectionDataset, augmentation: Augmentation) -> DetectionDataset:
    """The dataset followed by its records in every extra view; all views of an image share its id and file.

    Views keep the original's boxes as far as they can be seen: a crop drops those that lose more than 60 % of
    their area, and what its policy would not accept. Extra views without boxes are left out. `dropped` counts
    both, as "REASON in VIEW" and `WITHOUT_BOXES`.

    Args:
        dataset: without extra views; returned as it is when the augmentation asks for none.
        augmentation: which views.

    Raises:
        InputError: the dataset has extra views already.
    """
    if augmentation.num_views == 1:
        return dataset
    if dataset.views is not None:
        raise InputError(f"{dataset.name} has extra views already", "a dataset without")
    sizes = np.stack([dataset.widths, dataset.heights], axis=1)
    keys = image_keys(dataset.image_ids, augmentation.seed)
    source = _Source(dataset=dataset, augmentation=augmentation, sizes=sizes, keys=keys)
    numbers, starts = range(1, augmentation.num_views), range(0, len(dataset), _BLOCK)
    views = [source.original(), *(source.view(number, start) for number in numbers for start in starts)]
    dropped = sum((view.dropped for view in views), Counter(dataset.dropped))
    images = np.concatenate([view.images for view in views])
    rows = np.concatenate([view.rows for view in views])
    frames = np.concatenate([view.frames for view in views])
    of_record = np.repeat([view.number for view in views], [len(view.images) for view in views])
    width_height = view_sizes(frames)
    return replace(
        dataset,
        image_ids=[dataset.image_ids[i] for i in images],
        file_names=[dataset.file_names[i] for i in images],
        widths=width_height[:, 0],
        heights=width_height[:, 1],
        offsets=np.concatenate([[0], np.cumsum(np.concatenate([view.counts for view in views]))]),
        boxes=np.concatenate([view.boxes for view in views]),
        labels=dataset.labels[rows],
        annotation_ids=dataset.annotation_ids[rows],
        crowd=dataset.crowd[rows],
        dropped=dropped,
        views=ViewTable(numbers=of_record.astype(np.int32), origins=images.astype(np.int32), frames=frames),
        augmentation=augmentation,
    )


@dataclass(frozen=True, kw_only=True)
class _View:
    """One view of the images that have boxes in it: images, counts [m]; frames [m, 6]; rows, boxes [n]."""

    number: int
    images: NDArray[np.int64]
    counts: NDArray[np.int64]
    frames: Frames
    rows: NDArray[np.int64]
    boxes: Boxes
    dropped: Counter[str]


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What all views are made of; sizes int32 [M, 2], keys uint64 [M]."""

    dataset: DetectionDataset
    augmentation: Augmentation
    sizes: NDArray[np.int32]
    keys: NDArray[np.uint64]

    def original(self) -> _View:
        """View 0 holds every image, also without boxes."""
        return _View(
            number=0,
            images=np.arange(len(self.sizes)),
            counts=np.diff(self.dataset.offsets),
            frames=self.augmentation.frames(0, self.sizes, self.keys),
            rows=np.arange(len(self.dataset.boxes)),
            boxes=self.dataset.boxes,
            dropped=Counter(),
        )

    def view(self, number: int, start: int) -> _View:
        """One extra view of a block of images."""
        offsets = self.dataset.offsets[start : start + _BLOCK + 1]
        keys, block = self.keys[start : start + _BLOCK], slice(offsets[0], offsets[-1])
        frames = self.augmentation.frames(number, self.sizes[start : start + _BLOCK], keys)
        image_of_box = np.repeat(np.arange(len(frames)), np.diff(offsets))
        boxes, labels = to_view(self.dataset.boxes[block], frames[image_of_box]), self.dataset.labels[block]
        rows, sizes = np.arange(len(boxes)), view_sizes(frames)
        dropped: Counter[str] = Counter()
        if self.augmentation.names[number] != "flip":
            rows, boxes, dropped = self._cut(boxes, labels, sizes, image_of_box)
        owner, rows = image_of_box[rows], rows + offsets[0]
        if self.augmentation.jitter:
            places, least = rows - offsets[owner], self.dataset.policy.min_size
            boxes = self.augmentation.jittered(boxes, sizes[owner], keys[owner], number, places, least)
        counts = np.bincount(owner, minlength=len(frames))
        kept = np.flatnonzero(counts)
        named = Counter({f"{k} in {self.augmentation.names[number]}": n for k, n in dropped.items()})
        if len(kept) < len(frames):
            named[WITHOUT_BOXES] = len(frames) - len(kept)
        return _View(
            number=number,
            images=start + kept,
            counts=counts[kept],
            frames=frames[kept],
            rows=rows,
            boxes=boxes,
            dropped=named,
        )

    def _cut(
        self,
        boxes: Boxes,
        labels: NDArray[np.int32],
        sizes: NDArray[np.int32],
        image_of_box: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], Boxes, Counter[str]]:
        """Rows and boxes that remain when boxes are cut at the border of their view; the rest by reason."""
        inside = np.clip(boxes, 0, np.tile(sizes[image_of_box], 2))
        rows = np.flatnonzero(box_area(inside) >= KEPT_SHARE * box_area(boxes))
        owner = image_of_box[rows]
        clean = clean_boxes(
            inside[rows],
            labels[rows],
            width=sizes[owner, 0],
            height=sizes[owner, 1],
            images=owner,
            policy=replace(self.dataset.policy, clip=True),
        )
        cut = Counter({CUT_AWAY: len(boxes) - len(rows)} if len(rows) < len(boxes) else {})
        return rows[clean.kept], clean.boxes, cut + clean.dropped
