"""Compressed COCO run lengths {"size": [h, w], "counts": bytes}. All use of pycocotools.mask is here.

pycocotools trusts its input: run lengths that do not fill the image make it read beyond their end or loop for
ever, and outlines far outside of it take all memory. Whatever comes from a file is checked before.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from regionspot_cache.datasets.images import MAX_PIXELS
from regionspot_cache.errors import InputError

Rle = dict[str, Any]

_mask: Any = mask_utils  # published type stubs do not know lists of run lengths
_BYTES_AT_ONCE = 1 << 17  # of run lengths that are checked: their numbers stay in the cache of a core
_MOST_DIGITS = 7  # of a run length; 32 bits
_MASKS_AT_ONCE = 255  # pycocotools 2.0.11 counts the masks of one call of area in 8 bits


def encode_mask(mask: np.ndarray) -> Rle:
    """Run lengths of a bool mask [h,w]."""
    return _mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def encode_masks(masks: np.ndarray) -> list[Rle]:
    """Run lengths of bool masks [n,h,w]; nothing is copied where the rows of each lie closest together."""
    return _mask.encode(np.asfortranarray(masks.view(np.uint8).transpose(1, 2, 0)))


def decode_masks(rles: Sequence[Rle], size: tuple[int, int]) -> np.ndarray:
    """The masks of run lengths that `encode_masks` made of images of `size` (h, w), bool [n,h,w]."""
    if not rles:
        return np.zeros((0, *size), bool)
    counts = [rle["counts"] for rle in rles]
    runs, _, _ = _run_lengths(np.frombuffer(b"".join(counts), np.uint8), np.cumsum(list(map(len, counts))))
    inside = np.tile([False, True], len(runs))
    return np.repeat(inside, runs.reshape(-1)).reshape(len(rles), size[1], size[0]).transpose(0, 2, 1)


def annotation_rle(segmentation: Any, height: int, width: int) -> Rle:
    """Run lengths of a mask given as polygons, plain counts, or run lengths; InputError for others."""
    try:
        _check_size(height, width)
        if isinstance(segmentation, list):
            _check_polygons(segmentation, height, width)
            found = _mask.frPyObjects(segmentation, height, width)
            return found[0] if len(found) == 1 else _mask.merge(found)
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"a mask of {segmentation['size']}, of an image of {[height, width]}")
        if isinstance(segmentation["counts"], list):
            return _from_plain_counts(segmentation, height, width)
        check_fills(segmentation)
        return segmentation
    except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"an annotation without a usable mask ({type(error).__name__}: {error})",
            "polygons near the image, or run lengths that fill it, for every annotation",
            "evaluate boxes only",
        ) from None


def _check_size(height: int, width: int) -> None:
    if min(height, width) < 0 or height * width > MAX_PIXELS:
        raise ValueError(f"an image of {height} x {width}")


def check_fills(rle: Rle) -> None:
    """Raises ValueError for compressed run lengths that do not fill their image exactly."""
    counts = rle["counts"].encode("ascii") if isinstance(rle["counts"], str) else rle["counts"]
    sizes = np.array([rle["size"]], np.int64).reshape(1, 2)
    if checked_areas(counts, np.array([0, len(counts)]), sizes)[0] < 0:
        raise ValueError(f"the run lengths do not fill {sizes[0].tolist()}")


def checked_areas(data: bytes | bytearray, offsets: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Pixels of each mask, i64 [B]; -1 where run lengths are not whole or do not fill the image exactly.

    `data` holds the compressed counts of all masks (cocoapi's maskApi.c, rleToString), cut by `offsets`
    i64 [B+1]; `sizes` int [B,2] are height and width.
    """
    possible = (sizes >= 0).all(axis=1) & (sizes.astype(np.float64).prod(axis=1) <= MAX_PIXELS)
    pixels = np.where(possible, sizes.astype(np.int64).prod(axis=1), -1)
    areas = np.full(len(sizes), -1, np.int64)
    rows = np.flatnonzero(np.diff(offsets) > 0)  # reduceat knows no empty parts
    starts, ends = offsets[:-1][rows], offsets[1:][rows]
    first = 0
    while first < len(rows):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + _BYTES_AT_ONCE, side="right")))
        part, span = rows[first:last], slice(int(starts[first]), int(ends[last - 1]))
        some = np.frombuffer(data, np.uint8)[span]
        runs, row, broken = _run_lengths(some, ends[first:last] - span.start)
        sums = np.add.reduceat(runs, row, axis=0)
        good = ~broken & (sums.sum(axis=1) == pixels[part])
        areas[part] = np.where(good, sums[:, 1], -1)
        first = last
    return areas


def _run_lengths(data: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The run lengths of masks that end at `ends` i64 [b] of `data` u8 [n].

    Returns:
        Runs i64 [k,2], of background and of the mask behind it, 0 where a mask ends with background; the
        first row of each mask [b]; whether its bytes are wrong or its lengths are none, bool [b].
    """
    values, count, broken = _numbers(data, ends)
    rows = (count + 1) // 2
    row_end = np.cumsum(rows)
    row = row_end - rows
    runs = np.zeros((int(rows.sum()), 2), np.int64)
    padding = 2 * row - (np.cumsum(count) - count)
    runs.reshape(-1)[np.arange(len(values)) + np.repeat(padding, count)] = values
    # From the fourth on, a number is the difference to the one before the last.
    first = runs[row, 0]
    runs[row, 0] = 0
    runs[row[1:]] -= np.add.reduceat(runs, row, axis=0)[:-1]  # the sums begin anew with each mask
    np.cumsum(runs, axis=0, out=runs)
    runs[row, 0] = first
    runs[row_end[count % 2 == 1] - 1, 1] = 0
    wrong = np.flatnonzero(runs.reshape(-1).view(np.uint64) > MAX_PIXELS) // 2  # negative ones are large
    broken[np.searchsorted(row_end, wrong, side="right")] = True
    return runs, row, broken


def _numbers(data: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The signed numbers of all masks i64 [k], how many each has i64 [b], and where bytes are wrong bool [b].

    Bytes are digits of five bits, the lowest first, plus 48; bit 5 says that more follow, and bit 4 of the
    last one that the number is negative.
    """
    digits = data - np.uint8(48)  # what is less becomes large
    ending = digits & 0x20 == 0
    broken = ~ending[ends - 1]  # cut off
    ending[ends - 1] = True
    last = np.flatnonzero(ending)
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    values = (digits[first] & 0x1F).astype(np.int64)
    longer = np.flatnonzero(length > 1)
    for place in range(1, _MOST_DIGITS):
        values[longer] |= (digits[first[longer] + place] & np.int64(0x1F)) << (5 * place)
        longer = longer[length[longer] > place + 1]
    for wrong in (np.flatnonzero(digits > 63), last[longer]):
        broken[np.searchsorted(ends, wrong, side="right")] = True
    negative = np.flatnonzero(digits[last] & 0x10)
    values[negative] -= np.left_shift(1, 5 * np.minimum(length[negative], _MOST_DIGITS))
    return values, np.diff(np.searchsorted(last, ends), prepend=0), broken


def _from_plain_counts(segmentation: Any, height: int, width: int) -> Rle:
    counts = segmentation["counts"]
    if not all(type(count) is int and count >= 0 for count in counts) or sum(counts) != height * width:
        raise ValueError(f"the run lengths do not fill {[height, width]}")
    return _mask.frPyObjects(segmentation, height, width)


def _check_polygons(polygons: list[Any], height: int, width: int) -> None:
    """Points may lie outside the image, but no farther than its longer side."""
    side = max(height, width)
    for points in polygons:
        if len(points) < 4:  # four are a box to pycocotools
            raise ValueError(f"a polygon of {len(points)} numbers")
        if not (math.isfinite(sum(points)) and min(points) >= -side and max(points) <= 2 * side):
            raise ValueError(f"a polygon that leaves an image of {height} x {width} far behind")


def mask_areas(rles: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Pixels of each mask, i64 [n]."""
    parts = [_mask.area(list(rles[at : at + _MASKS_AT_ONCE])) for at in range(0, len(rles), _MASKS_AT_ONCE)]
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


def mask_iou(detections: list[Rle], annotations: list[Rle], crowd: np.ndarray) -> np.ndarray:
    """IoU f64 [n,G]; a crowd (bool [G]) is met by the share of the detection inside it."""
    return _mask.iou(detections, annotations, crowd)


def mask_box(rle: Rle) -> list[float]:
    """Bounding box xywh."""
    return _mask.toBbox(rle).tolist()
