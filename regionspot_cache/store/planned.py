"""The images and boxes of a cache by position, without their features."""

from functools import cached_property
from typing import Any

import numpy as np

from regionspot_cache.datasets.images import ExifRule
from regionspot_cache.errors import InputError
from regionspot_cache.store.identity import CacheRecord
from regionspot_cache.store.objects import Objects
from regionspot_cache.store.plan import PartitionPlan
from regionspot_cache.store.plan_store import StoredPlan


class PlannedImages:
    """Image i is slot i % S of partition i // S. Each view of an image counts as an image.

    Attributes:
        source: the annotations that it was planned from, where they were named.
        image_root: as given when planned.
        exif, augmentation: how images are turned, and which extra views there are (None without).
        dropped: boxes and images left out when the cache was planned, by reason.
    """

    def __init__(self, objects: Objects, record: CacheRecord) -> None:
        self._objects, self._record = objects, record
        self._plan = StoredPlan(objects, record)
        self.source, self.image_root = record.source, record.image_root
        self.exif: ExifRule = record.identity["exif"]
        self.augmentation: dict[str, Any] | None = record.identity["augmentation"]
        self.dropped = dict(record.dropped)
        self._offsets = self._load_offsets()

    def __len__(self) -> int:
        return self.num_images

    @property
    def plan_digest(self) -> str:
        """What decides which image and box is which record."""
        return self._record.plan_digest

    @property
    def num_images(self) -> int:
        """M."""
        return self._record.shape.num_images

    @property
    def num_boxes(self) -> int:
        """Boxes of all images."""
        return self._record.shape.num_boxes

    @property
    def num_partitions(self) -> int:
        """P."""
        return self._record.shape.num_partitions

    @property
    def partition_size(self) -> int:
        """S."""
        return self._record.shape.partition_size

    def partition(self, index: int) -> PartitionPlan:
        """Images and boxes of one partition."""
        return self._plan.partition(index)

    def image(self, i: int) -> tuple[int | str, str]:
        """Image id and file name of image i. Raises InputError when there is none."""
        if not 0 <= i < self.num_images:
            raise InputError(f"image {i}", f"0 to {self.num_images - 1}", "a position that holds an image")
        return self._plan.image_name(*divmod(i, self.partition_size))

    @cached_property
    def file_names(self) -> list[str]:
        """Names of the files of all images by position; loaded on first use."""
        return [name for p in range(self.num_partitions) for name in self._plan.texts(p)[1::2]]

    @cached_property
    def views(self) -> np.ndarray | None:
        """int32 [M], the view of each image (0: the picture itself); None without extra views."""
        return self._plan.load("views", self._image_counts) if self._record.shape.views else None

    @cached_property
    def origins(self) -> np.ndarray | None:
        """int32 [M], number of the image that each one is a view of; None without extra views."""
        return self._plan.load("origins", self._image_counts) if self._record.shape.views else None

    @cached_property
    def frames(self) -> np.ndarray | None:
        """int32 [M, 6], see `datasets.augmentation`; None without extra views."""
        return self._plan.load("frames", self._image_counts) if self._record.shape.views else None

    @property
    def offsets(self) -> np.ndarray:
        """int64 [M + 1]: image i owns boxes offsets[i]:offsets[i + 1] of the cache's order."""
        return self._offsets

    def boxes(self, i: int) -> np.ndarray:
        """float32 [n, 4], xyxy in pixels of image i: of the view, where there are extra ones."""
        return self.all_boxes[self._offsets[i] : self._offsets[i + 1]]

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of image i (of the view) in pixels."""
        width, height = self.all_sizes[i].tolist()
        return width, height

    @cached_property
    def all_boxes(self) -> np.ndarray:
        """float32 [T, 4] in the cache's order (`offsets`); loaded on first use, 16 bytes a box."""
        return self._plan.load("boxes", self._box_counts)

    @cached_property
    def all_sizes(self) -> np.ndarray:
        """int32 [M, 2], width and height by position; loaded on first use."""
        return self._plan.load("sizes", self._image_counts)

    @property
    def _image_counts(self) -> np.ndarray:
        shape = self._record.shape
        return np.array([shape.partition_images(p) for p in range(shape.num_partitions)])

    @property
    def _box_counts(self) -> np.ndarray:
        starts = np.append(np.arange(self.num_partitions) * self.partition_size, self.num_images)
        return np.diff(self._offsets[starts])

    def _load_offsets(self) -> np.ndarray:
        """int64 [M + 1] from the stored int32 [P, S + 1], which start at 0 in each partition."""
        counts = self._image_counts
        stored = self._plan.load("offsets", counts + 1).astype(np.int64)
        ends = np.cumsum(counts + 1)
        per_image = np.delete(np.diff(stored), ends[:-1] - 1)
        return np.concatenate([[0], np.cumsum(per_image)])
