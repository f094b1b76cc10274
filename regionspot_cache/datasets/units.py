"""Boxes in other units or another order than the format says: accepted, they would name other regions."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.assemble import FileBoxes
from regionspot_cache.errors import InputError

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
