"""Boxes: conversions, overlap, and the one rule by which bad boxes are dropped."""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Boxes = NDArray[np.float32]  # [N, 4] xyxy, pixels of the original image

BOX_QUERY = "box/position"
"""Name of the vectors that no network makes: where a box lies in its image, `position_vectors`."""
_FREQUENCIES = 32

CROWD = "crowd"
NON_FINITE = "non-finite box"
OUTSIDE = "outside image"
TOO_SMALL = "too small"
DUPLICATE = "duplicate box"


@dataclass(frozen=True, kw_only=True)
class BoxPolicy:
    """How annotated boxes become regions.

    The defaults are the field's practice (detectron2, mmdetection): clip to the image, then drop boxes less
    than a pixel wide or high, groups (`iscrowd`, `ignore`, `IsGroupOf`) and exact repetitions.
    """

    min_size: float = 1.0  # smallest width and height in pixels, after clipping; empty boxes go in any case
    clip: bool = True  # cut boxes at the image border. Boxes wholly outside are dropped either way.
    drop_crowd: bool = True  # drop boxes that stand for a group of objects
    deduplicate: bool = True  # drop repetitions of the same label and box within one image, keeping the first


class CleanBoxes(NamedTuple):
    """What `clean_boxes` kept, in the order given."""

    kept: NDArray[np.int64]  # [K], rising indices into the input
    boxes: Boxes  # [K, 4]
    dropped: Counter[str]  # reason -> number of boxes


def clean_boxes(
    boxes: ArrayLike,
    labels: ArrayLike,
    *,
    width: ArrayLike,
    height: ArrayLike,
    crowd: ArrayLike | None = None,
    images: ArrayLike | None = None,
    policy: BoxPolicy | None = None,
) -> CleanBoxes:
    """Applies `policy`; each dropped box is counted once, under the first reason that holds.

    Args:
        boxes: [N, 4] xyxy pixels, with `labels` [N].
        width, height: of the image in pixels; [N] when the boxes belong to several images.
        crowd: bool [N], boxes that stand for a group.
        images: int [N], the image of each box; needed only when the boxes belong to several.
    """
    policy = policy or BoxPolicy()
    boxes = _as_float32(boxes).reshape(-1, 4)
    size = np.empty((len(boxes), 2), np.float32)
    size[:, 0], size[:, 1] = width, height
    clipped = np.clip(boxes, 0, np.tile(size, 2)) if policy.clip else boxes
    with np.errstate(invalid="ignore"):  # inf - inf: such boxes are already condemned as non-finite
        sides = clipped[:, 2:] - clipped[:, :2]
    grouped = policy.drop_crowd and crowd is not None
    alive = np.ones(len(boxes), bool)
    dropped: Counter[str] = Counter()
    reasons = {
        CROWD: np.asarray(crowd, bool).reshape(-1) if grouped else ~alive,
        NON_FINITE: ~np.isfinite(boxes).all(axis=1),
        OUTSIDE: (boxes[:, 2:] <= 0).any(axis=1) | (boxes[:, :2] >= size).any(axis=1),
        TOO_SMALL: np.any((sides < policy.min_size) | (sides <= 0), axis=1),
    }
    for reason, bad in reasons.items():
        dropped[reason] = int(np.count_nonzero(alive & bad))
        alive &= ~bad
    kept = np.flatnonzero(alive)
    if policy.deduplicate:
        columns = [
            np.asarray(labels).reshape(-1),
            np.zeros(len(boxes)) if images is None else np.asarray(images),
        ]
        keys = [*clipped[kept].T, *(column[kept] for column in columns)]
        order = np.lexsort(keys)  # stable, so the first of equal rows stays first; the last key sorts first
        same = np.ones(max(len(order) - 1, 0), bool)
        for key in keys:
            same &= key[order][1:] == key[order][:-1]
        repeated = np.zeros(len(order), bool)
        repeated[order[1:][same]] = True
        dropped[DUPLICATE] = int(np.count_nonzero(repeated))
        kept = kept[~repeated]
    return CleanBoxes(kept, clipped[kept], +dropped)


def xyxy_to_xywh(boxes: ArrayLike) -> Boxes:
    """[N, 4] xyxy -> float32 [N, 4] left, top, width, height."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return _as_float32(np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1))


def box_area(boxes: ArrayLike) -> NDArray[np.float32]:
    """Square pixels of xyxy boxes [N, 4] -> float32 [N]; inverted boxes have area 0."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def box_iou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Intersection over union of xyxy boxes [N, 4] and [M, 4] -> float32 [N, M]; 0 where both are empty."""
    a, b = np.asarray(a, np.float32).reshape(-1, 4), np.asarray(b, np.float32).reshape(-1, 4)
    left_top = np.maximum(a[:, None, :2], b[None, :, :2])  # [N, M, 2]
    right_bottom = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(right_bottom - left_top, 0)
    overlap = sides[..., 0] * sides[..., 1]
    union = box_area(a)[:, None] + box_area(b)[None, :] - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def position_vectors(boxes: Boxes, size: tuple[int, int]) -> NDArray[np.float32]:
    """float32 [N, 256]: sines and cosines of the sides of boxes, as shares of the `size` (width, height)."""
    shares = np.asarray(boxes, np.float32).reshape(-1, 4) / np.array([*size, *size], np.float32)
    rates = np.pi * np.geomspace(1, 128, _FREQUENCIES, dtype=np.float32)
    angles = shares[:, :, None] * rates  # [N, 4, F]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=2).reshape(-1, 8 * _FREQUENCIES)


def _as_float32(values: ArrayLike) -> Boxes:
    with np.errstate(over="ignore"):  # 1e300 becomes inf, which the policy drops by name
        return np.asarray(values).astype(np.float32)
