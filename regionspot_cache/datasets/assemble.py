"""From boxes in file order to a dataset: grouped by image and cleaned."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.records import DetectionDataset
from regionspot_cache.datasets.regions import Boxes, BoxPolicy, clean_boxes
from regionspot_cache.datasets.tables import Table, offsets_of

UNKNOWN_IMAGE = "unknown image"
_BOXES_AT_ONCE = 1 << 18


@dataclass(frozen=True, kw_only=True, eq=False)
class FileBoxes(Table):
    """Boxes as a file lists them."""

    images: NDArray[np.int64]  # int64 [T], index of the image, or -1 when the file does not list it
    boxes: Boxes  # float32 [T, 4] xyxy, pixels
    labels: NDArray[np.int32]  # int32 [T]
    ids: NDArray[np.int64]  # int64 [T]
    crowd: NDArray[np.bool_]  # bool [T]


def assemble(
    boxes: FileBoxes,
    *,
    widths: NDArray[np.int32],
    heights: NDArray[np.int32],
    policy: BoxPolicy,
    dropped: Counter[str],
    **fields: Any,
) -> DetectionDataset:
    """The dataset with these boxes: sorted by image, cleaned by `policy`, those of unlisted images dropped.

    `boxes` are in file order, which stays within an image; widths and heights are int32 [M] pixels. Boxes are
    counted beside what the reader `dropped`; `fields` are those of `DetectionDataset` that no box decides.
    """
    dropped = dropped.copy()
    order = np.argsort(boxes.images, kind="stable")
    images = boxes.images[order]
    unknown = int(np.searchsorted(images, 0))
    if unknown:
        dropped[UNKNOWN_IMAGE] = unknown
    parts = [boxes.take(order[:0])]
    for run in _runs(images, unknown):
        part = boxes.take(order[run])
        clean = clean_boxes(
            part.boxes,
            part.labels,
            width=widths[part.images],
            height=heights[part.images],
            crowd=part.crowd,
            images=part.images,
            policy=policy,
        )
        parts.append(replace(part.take(clean.kept), boxes=clean.boxes))
        dropped += clean.dropped
    kept = FileBoxes.concatenate(parts)
    return DetectionDataset(
        widths=widths,
        heights=heights,
        offsets=offsets_of(np.bincount(kept.images, minlength=len(widths))),
        boxes=kept.boxes,
        labels=kept.labels,
        annotation_ids=kept.ids,
        crowd=kept.crowd,
        dropped=dropped,
        policy=policy,
        **fields,
    )


def _runs(images: NDArray[np.int64], start: int) -> Iterator[slice]:
    """Cuts sorted `images` from `start` on into runs of some 262,000 boxes, never within an image."""
    while start < len(images):
        last = images[min(start + _BOXES_AT_ONCE, len(images)) - 1]
        stop = int(np.searchsorted(images, last, side="right"))
        yield slice(start, stop)
        start = stop
