"""Which image goes to which partition: the whole dataset, shuffled once with a recorded seed, then cut.

Everything is kept as flat arrays (one row an image or a box), so 25 million boxes fit in memory.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from regionspot_cache.datasets.augmentation import ViewTable
from regionspot_cache.errors import InputError
from regionspot_cache.hashing import random64
from regionspot_cache.store.layout import PlanShape

if TYPE_CHECKING:
    from regionspot_cache.datasets import DetectionDataset


@dataclass(frozen=True, kw_only=True)
class PartitionPlan:
    """The s images and b boxes of partition `index`.

    Attributes:
        sizes: int32 [s, 2], width and height of the view in pixels.
        boxes: float32 [b, 4], xyxy in pixels of the view, which is the original image unless `views` differ.
        offsets: int32 [s + 1]; image s owns boxes offsets[s]:offsets[s + 1].
        views: of each image, when the dataset has extra views.
    """

    index: int
    image_ids: list[int | str]
    file_names: list[str]
    sizes: np.ndarray
    boxes: np.ndarray
    offsets: np.ndarray
    views: ViewTable | None = None

    @property
    def num_images(self) -> int:
        return len(self.file_names)

    @property
    def num_boxes(self) -> int:
        return len(self.boxes)


def shuffled_order(count: int, seed: int) -> np.ndarray:
    """Permutation int64 [count] by hashes of the indices, the same on every numpy version."""
    first = np.uint64(seed % 2**32) * np.uint64(0x100000000)
    return np.argsort(random64(0, np.arange(count, dtype=np.uint64) + first), kind="stable")


class CachePlan:
    """The partitions of a dataset, which is kept, not copied.

    Raises:
        InputError: the dataset has no images, or its arrays disagree.
    """

    def __init__(self, dataset: "DetectionDataset", *, partition_size: int = 512, seed: int = 0) -> None:
        _check_dataset(dataset, partition_size)
        self.dataset, self.partition_size, self.seed = dataset, partition_size, seed
        self.order = shuffled_order(len(dataset.file_names), seed)
        starts = np.arange(0, len(self.order), partition_size)
        self.views, self.num_partitions = dataset.views, len(starts)
        box_counts = np.diff(dataset.offsets)[self.order]
        # int64 [P] each: images, boxes and text bytes a partition
        self.image_counts = np.diff(np.append(starts, len(self.order)))
        self.box_counts = np.add.reduceat(box_counts, starts)
        self.text_counts = np.add.reduceat(_text_bytes(dataset)[self.order], starts)

    @property
    def shape(self) -> PlanShape:
        """The sizes that fix the shape of every array."""
        return PlanShape(
            num_images=len(self.order),
            num_boxes=len(self.dataset.boxes),
            partition_size=self.partition_size,
            max_boxes=int(self.box_counts.max()),
            max_text=int(self.text_counts.max()),
            views=self.views is not None,
        )

    def partition(self, index: int) -> PartitionPlan:
        """Images and boxes of partition `index`, in stored order."""
        data = self.dataset
        images = self.order[index * self.partition_size : (index + 1) * self.partition_size]
        first = np.asarray(data.offsets)[images]
        offsets = np.zeros(len(images) + 1, np.int64)
        np.cumsum(np.asarray(data.offsets)[images + 1] - first, out=offsets[1:])
        rows = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], np.diff(offsets))
        return PartitionPlan(
            index=index,
            image_ids=[data.image_ids[i] for i in images],
            file_names=[data.file_names[i] for i in images],
            sizes=np.stack([data.widths[images], data.heights[images]], axis=1).astype(np.int32),
            boxes=np.asarray(data.boxes[rows], np.float32),
            offsets=offsets.astype(np.int32),
            views=self.views and self.views.take(images),
        )

    def content_digest(self) -> str:
        """SHA-256 of every file name, size, box and view of the dataset, in the dataset's order.

        Ids, labels and whatever else an annotation file says change no feature and are left out.
        """
        data, total = self.dataset, hashlib.sha256()
        names = data.file_names
        for start in range(0, len(names), 4096):
            total.update("\0".join(names[start : start + 4096]).encode(errors="surrogateescape"))
        columns = [(getattr(data, name), dtype) for name, dtype in _HASHED.items()]
        if self.views is not None:
            columns += [(getattr(self.views, name), dtype) for name, dtype in _HASHED_VIEWS.items()]
        for column, dtype in columns:
            values = np.asarray(column)
            for start in range(0, len(values), 1 << 20):
                total.update(np.ascontiguousarray(values[start : start + (1 << 20)], dtype).data)
        return total.hexdigest()


_HASHED = {
    "widths": "<i4",
    "heights": "<i4",
    "offsets": "<i8",
    "boxes": "<f4",
}
_HASHED_VIEWS = {"numbers": "<i4", "origins": "<i4", "frames": "<i4"}


def _text_bytes(dataset: "DetectionDataset") -> np.ndarray:
    pairs = zip(dataset.image_ids, dataset.file_names, strict=True)
    lengths = (len(f"{a}{b}".encode(errors="surrogateescape")) for a, b in pairs)
    return np.fromiter(lengths, np.int64, len(dataset.file_names))


def _check_dataset(dataset: "DetectionDataset", partition_size: int) -> None:
    images, boxes = len(dataset.file_names), len(dataset.boxes)
    if images == 0:
        raise InputError(
            f"dataset {dataset.name} has no images", "at least one", "check the annotation file and --limit"
        )
    if partition_size < 1:
        raise InputError(f"partition size {partition_size}", "at least 1", "choose another partition size")
    whole = (
        len(dataset.image_ids) == len(dataset.widths) == len(dataset.heights) == images
        and len(dataset.offsets) == images + 1
        and dataset.offsets[0] == 0
        and dataset.offsets[-1] == boxes
        and bool((np.diff(dataset.offsets) >= 0).all())
    )
    if not whole:
        raise InputError(
            f"the arrays of dataset {dataset.name} disagree in length",
            "one row an image or a box",
            "report the annotation file that led here",
        )
    if dataset.views is not None:
        _check_views(dataset.views, images, dataset.name)


def _check_views(views: ViewTable, images: int, name: str) -> None:
    originals = np.unique(views.origins[views.numbers == 0])
    pairs = np.unique(views.origins.astype(np.int64) * 256 + views.numbers)
    if not len(views) == len(pairs) == images or len(originals) < len(np.unique(views.origins)):
        raise InputError(
            f"the views of dataset {name} repeat or lack an original",
            "every image once as it is, and once in each extra view at most",
            "make them with datasets.with_views",
        )
