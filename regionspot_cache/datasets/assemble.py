"""From boxes in file order to a dataset: checked to be pixels, grouped by image and cleaned."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.records import DetectionDataset
from regionspot_cache.datasets.regions import Boxes, BoxPolicy, clean_boxes
from regionspot_cache.datasets.tables import Table, offsets_of
from regionspot_cache.errors import InputError

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


_PROBES = 100_000  # boxes that are looked at, evenly spread over the file
_NEARLY_ALL = 0.9
_SLACK = 1e-3  # fractions written with few digits
_BEYOND = 0.1  # share of an image's side by which a box that was misread leaves it
_HALF = 0.5  # of the corners that are read as sizes, those of boxes near the origin stay inside


def require_pixels(
    boxes: FileBoxes, widths: NDArray[np.int32], heights: NDArray[np.int32], file: Path
) -> None:
    """Refuses boxes [left, top, width, height] that are fractions of the image or hold two corners.

    Boxes without extent and of unlisted images do not count. Fractions: nearly all numbers are in [0, 1],
    on images that are larger. Corners: read as sizes, half of the boxes leave their image by more than a
    tenth of it, while nearly all lie within it when read as corners; boxes that are merely cut off by the
    border do not, for the left side of most exceeds their width. The InputError has an example.
    """
    with np.errstate(invalid="ignore"):
        extent = np.isfinite(boxes.boxes).all(axis=1) & (boxes.boxes[:, 2:] > boxes.boxes[:, :2]).all(axis=1)
    rows = np.flatnonzero((boxes.images >= 0) & extent)
    rows = rows[:: -(-len(rows) // _PROBES) or 1]
    if not len(rows):
        return
    size = np.stack([widths, heights], axis=1)[boxes.images[rows]].astype(np.float32)  # [N, 2]
    start, stop = boxes.boxes[rows, :2], boxes.boxes[rows, 2:]
    side = stop - start
    shown = ", ".join(f"{value:.6g}" for value in (*start[0], *side[0]))
    width, height = size[0].astype(int)
    example = f"annotation {boxes.ids[rows[0]]} has [{shown}] in an image of {width} x {height}"
    fractions = _share((start >= -_SLACK) & (np.maximum(start, side) <= 1 + _SLACK) & (size > 2))
    if fractions >= _NEARLY_ALL:
        raise InputError(
            f"{file}: {fractions:.0%} of the boxes lie between 0 and 1; {example} pixels.",
            "`bbox` [left, top, width, height] in pixels, not in fractions of the image.",
            "Multiply left and width by the image's width, top and height by its height.",
        )
    cornered = _share((start >= 0) & (side > start) & (side <= size + 1))
    leaving = 1 - _share(stop <= size * (1 + _BEYOND))
    if cornered >= _NEARLY_ALL and leaving >= _HALF:
        raise InputError(
            f"{file}: {leaving:.0%} of the boxes leave their image, and {cornered:.0%} would be "
            f"inside as two corners; {example} pixels.",
            "`bbox` [left, top, width, height], not [left, top, right, bottom].",
            "Write right - left and bottom - top in the place of right and bottom.",
        )


def _share(good: NDArray[np.bool_]) -> float:
    """Of the rows [N, 2] that are good in both columns."""
    return float(np.mean(good.all(axis=1)))
