"""Boxes between the stored pixels of pictures and the pictures as they are shown, turned by EXIF."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.box_formats.box_set import BoxSet
from regionspot_cache.datasets.images import ExifRule, ImageFailure, find_image, image_orientation

Regions = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Boxes [T, 4] and offsets [M + 1]."""
_BACK = {6: 8, 8: 6}  # every other turn undoes itself


def in_frame(boxes: BoxSet, exif: ExifRule, proposed: Regions | None = None) -> tuple[BoxSet, Regions | None]:
    """A set, and boxes proposed for its pictures, as a format with another EXIF rule has them.

    A picture that cannot be read keeps its boxes.
    """
    dataset = boxes.dataset
    if dataset.exif == exif:
        return boxes, proposed
    widths, heights = dataset.widths.copy(), dataset.heights.copy()
    given = [(dataset.boxes, dataset.offsets), *([proposed] if proposed else [])]
    parts = [(corners.copy(), offsets) for corners, offsets in given]
    for i, name in enumerate(dataset.file_names):
        try:
            orientation = image_orientation(find_image(dataset.image_root, name))
        except ImageFailure:
            continue
        if exif == "ignore":
            orientation = _BACK.get(orientation, orientation)
        for corners, offsets in parts:
            rows = slice(int(offsets[i]), int(offsets[i + 1]))
            corners[rows] = turned(corners[rows], int(widths[i]), int(heights[i]), orientation)
        if orientation >= 5:
            widths[i], heights[i] = heights[i], widths[i]
    moved = replace(dataset, boxes=parts[0][0], widths=widths, heights=heights, exif=exif)
    return replace(boxes, dataset=moved), parts[1] if proposed else None


def turned(boxes: NDArray[np.float32], width: int, height: int, orientation: int) -> NDArray[np.float32]:
    """Boxes [n, 4] of a picture of this size, after the turn that EXIF asks for."""
    x, y = boxes[:, 0::2], boxes[:, 1::2]
    left, up = width - x, height - y
    pairs = {2: (left, y), 3: (left, up), 4: (x, up), 5: (y, x), 6: (up, x), 7: (up, left), 8: (y, left)}
    across, down = pairs.get(orientation, (x, y))
    sides = across.min(1), down.min(1), across.max(1), down.max(1)
    return np.stack(sides, axis=1).astype(np.float32)
