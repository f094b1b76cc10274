"""From boxes in file order to the compact arrays of a dataset: grouped by image and cleaned."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.regions import Boxes, BoxPolicy, CleanBoxes, clean_boxes

UNKNOWN_IMAGE = "unknown image"
_BOXES_AT_ONCE = 1 << 18


@dataclass(frozen=True, kw_only=True, eq=False)
class FileBoxes:
    """Boxes as a file lists them.

    Attributes:
        images: int64 [T], index of the image, or -1 when the file does not list it.
        boxes: float32 [T, 4] xyxy, pixels.
        labels: int32 [T].
        ids: int64 [T].
        crowd: bool [T].
    """

    images: NDArray[np.int64]
    boxes: Boxes
    labels: NDArray[np.int32]
    ids: NDArray[np.int64]
    crowd: NDArray[np.bool_]

    def __getitem__(self, rows: NDArray[np.int64]) -> "FileBoxes":
        return FileBoxes(
            images=self.images[rows],
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            ids=self.ids[rows],
            crowd=self.crowd[rows],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupedBoxes:
    """Cleaned boxes: those of image i in rows offsets[i] to offsets[i + 1], in file order."""

    offsets: NDArray[np.int64]  # [M + 1]
    boxes: FileBoxes
    dropped: Counter[str]


def group_and_clean(
    boxes: FileBoxes, widths: NDArray[np.int32], heights: NDArray[np.int32], policy: BoxPolicy
) -> GroupedBoxes:
    """Sorts boxes by image and applies `policy`; boxes of unlisted images are counted and dropped."""
    dropped: Counter[str] = Counter()
    order = np.argsort(boxes.images, kind="stable")
    images = boxes.images[order]
    unknown = int(np.searchsorted(images, 0))
    if unknown:
        dropped[UNKNOWN_IMAGE] = unknown
    parts = [boxes[order[:0]]]
    for run in _runs(images, unknown):
        part = boxes[order[run]]
        clean = _clean(part, widths, heights, policy)
        parts.append(replace(part[clean.kept], boxes=clean.boxes))
        dropped.update(clean.dropped)
    kept = _joined(parts)
    counts = np.bincount(kept.images, minlength=len(widths))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return GroupedBoxes(offsets=offsets, boxes=kept, dropped=dropped)


def _clean(
    part: FileBoxes, widths: NDArray[np.int32], heights: NDArray[np.int32], policy: BoxPolicy
) -> CleanBoxes:
    return clean_boxes(
        part.boxes,
        part.labels,
        width=widths[part.images],
        height=heights[part.images],
        crowd=part.crowd,
        images=part.images,
        policy=policy,
    )


def _runs(images: NDArray[np.int64], start: int) -> Iterator[slice]:
    """Cuts sorted `images` from `start` on into runs of some 262,000 boxes, never within an image."""
    while start < len(images):
        last = images[min(start + _BOXES_AT_ONCE, len(images)) - 1]
        stop = int(np.searchsorted(images, last, side="right"))
        yield slice(start, stop)
        start = stop


def _joined(parts: list[FileBoxes]) -> FileBoxes:
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    return FileBoxes(**columns)
