"""Symmetric int8 quantisation with one float16 scale per token (the vector along the last axis)."""

from typing import NamedTuple

import numpy as np

from regionspot_cache.errors import InputError

LEVELS = 127
_BLOCK_VALUES = 1 << 20  # keeps float32 temporaries in the processor's cache


class Quantised(NamedTuple):
    """int8 values [..., C] in -127..127 and their float16 scale [...]: x = values * scale."""

    values: np.ndarray
    scale: np.ndarray


def quantise(x: np.ndarray) -> Quantised:
    """Quantise float features [..., C].

    The scale is max|x| / 127 rounded up to float16, so no value is clipped and the error at most scale / 2.
    A token of zeros gets scale 1, so that a scale is never zero.

    Returns:
        values int8 [..., C] and scale float16 [...].

    Raises:
        InputError: a value is NaN, infinite, or too large for a float16 scale.
    """
    flat = np.ascontiguousarray(x).reshape(-1, x.shape[-1])  # [T, C]
    values = np.empty(flat.shape, np.int8)
    scale = np.empty(len(flat), np.float16)
    step = max(1, _BLOCK_VALUES // max(1, flat.shape[1]))
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        _quantise_block(flat[part], values[part], scale[part])
    return Quantised(values.reshape(x.shape), scale.reshape(x.shape[:-1]))


def _quantise_block(x: np.ndarray, values: np.ndarray, scale: np.ndarray) -> None:
    """Quantise x [t, C] into values [t, C] and scale [t]."""
    x = x.astype(np.float32, copy=False)
    largest = np.maximum(x.max(axis=1, initial=0), -x.min(axis=1, initial=0))  # NaN spreads
    with np.errstate(over="ignore"):
        rounded = (largest / np.float32(LEVELS)).astype(np.float16)
    too_small = rounded.astype(np.float32) * np.float32(LEVELS) < largest
    rounded = np.where(too_small, np.nextafter(rounded, np.float16(np.inf)), rounded)
    rounded = np.where(largest == 0, np.float16(1), rounded)
    if not np.isfinite(rounded).all():
        raise InputError(
            "features with NaN, infinite or enormous values cannot be quantised",
            f"finite values below {LEVELS * 65504:,}",
            "check the weights and the precision of the backbone that made them",
        )
    scale[:] = rounded
    values[:] = np.rint(x / rounded.astype(np.float32)[:, None])


def dequantise(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """float32 [..., C] from int8 values [..., C] and float16 scale [...]."""
    return values.astype(np.float32) * scale.astype(np.float32)[..., None]


def to_half_precision(x: np.ndarray) -> np.ndarray:
    """float16 copy of finite features.

    Raises:
        InputError: a value is NaN, infinite, or does not fit float16.
    """
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    if not np.isfinite(half).all():
        raise InputError(
            "features with NaN, infinite or enormous values cannot be stored as float16",
            "finite values of at most 65504",
            "store this part as int8, or check the backbone that made them",
        )
    return half
