"""Storage types: which arrays each keeps of float32 features, and the way there and back.

Another type is a name in `StorageName` and an entry of `STORAGE`. One that numpy lacks is stored as the bits
of its values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import numpy as np

from regionspot_cache.errors import InputError

StorageName = Literal["int8", "float16", "bfloat16"]

# By numpy dtype, of plan and features: values that stored data never takes, so stock zarr leaves out exactly
# the inner chunks that hold no record, and a stray read of one shows up as -128 or NaN, never as a plausible
# zero. (Symmetric quantisation yields -127..127; all bits set are a NaN of bfloat16.)
FILL_VALUES: dict[str, int | float] = {
    "int8": -128,
    "uint8": 0,
    "uint16": 0xFFFF,
    "int32": -1,
    "int64": -(2**63),
    "float16": float("nan"),
    "float32": float("nan"),
}
SCALE = "_scale"  # behind the name of an array: that of its scales
LEVELS = 127
_BLOCK_VALUES = 1 << 20  # keeps float32 temporaries in the processor's cache
_BFLOAT16_INFINITY = 0x7F80


class Stored(NamedTuple):
    """Features as they are stored: values [..., C], and of a scaled type a float16 scale [...] a vector."""

    values: np.ndarray
    scale: np.ndarray | None = None

    def take(self, rows: slice | np.ndarray) -> Self:
        """Some rows."""
        return self._replace(values=self.values[rows], scale=None if self.scale is None else self.scale[rows])

    def put(self, rows: slice | np.ndarray, other: "Stored") -> None:
        """Replaces some rows by others of the same type."""
        self.values[rows] = other.values
        if self.scale is not None:
            self.scale[rows] = other.scale


@dataclass(frozen=True, kw_only=True)
class Storage:
    """A storage type. Its name is that of a torch dtype, as which the bits of its values are seen.

    Attributes:
        dtype: of its values, for numpy.
        encode: from float features [..., C]; InputError for what cannot be stored.
        decode: float32 [..., C] from values and scale.
        holds: whether values and scale are such as `encode` makes.
        described: these, in words.
        scaled: a scale is stored for each vector.
    """

    dtype: str
    encode: Callable[[np.ndarray], Stored]
    decode: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    holds: Callable[[np.ndarray, np.ndarray | None], bool]
    described: str
    scaled: bool = False

    def arrays(self, name: str, item_shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        """What is stored of an array, the values first: numpy dtype and shape of a record, by name."""
        values = {name: (self.dtype, item_shape)}
        return values | {name + SCALE: ("float16", item_shape[:-1])} if self.scaled else values

    def empty(self, shape: tuple[int, ...]) -> Stored:
        """Room for features [..., C]."""
        return Stored(*(np.empty(item, dtype) for dtype, item in self.arrays("", shape).values()))

    def record_bytes(self, item_shape: tuple[int, ...]) -> int:
        """Bytes of one record."""
        return sum(array.nbytes for array in self.empty(item_shape) if array is not None)

    def require(self, name: str, stored: Stored) -> None:
        """Refuses what `encode` would not have made. Raises InputError."""
        values, scale = stored
        shapes = [each.shape for each in self.empty(values.shape) if each is not None]
        given = [each for each in stored if each is not None]
        good = values.dtype == self.dtype and [each.shape for each in given] == shapes
        if not good or not self.holds(values, scale):
            found = f"stored {name} features are out of range"
            raise InputError(found, self.described, "report this as a bug")


def quantise(x: np.ndarray) -> Stored:
    """Symmetric int8 quantisation of float features [..., C].

    The scale is max|x| / 127 rounded up to float16, so no value is clipped and the error at most scale / 2.
    A token of zeros gets scale 1, so that a scale is never zero.

    Returns:
        values int8 [..., C] in -127..127 and scale float16 [...].

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
    return Stored(values.reshape(x.shape), scale.reshape(x.shape[:-1]))


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


def dequantise(values: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """float32 [..., C] from int8 values [..., C] and float16 scale [...]."""
    assert scale is not None
    return values.astype(np.float32) * scale.astype(np.float32)[..., None]


def _is_quantised(values: np.ndarray, scale: np.ndarray | None) -> bool:
    good = scale is not None and scale.dtype == np.float16 and (np.isfinite(scale) & (scale > 0)).all()
    return bool(good) and not (values == -128).any()


def _to_float16(x: np.ndarray) -> Stored:
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    if not np.isfinite(half).all():
        raise InputError(
            "features with NaN, infinite or enormous values cannot be stored as float16",
            "finite values of at most 65504",
            "store this part as int8, or check the backbone that made them",
        )
    return Stored(half)


def _to_bfloat16(x: np.ndarray) -> Stored:
    """The upper halves of float32 values, rounded to nearest even."""
    x = np.ascontiguousarray(x, np.float32)
    bits = x.view(np.uint32)
    half = ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)
    if not np.isfinite(x).all() or not _is_bfloat16(half):
        raise InputError(
            "features with NaN, infinite or enormous values cannot be stored as bfloat16",
            "finite values of at most 3.38e38",
            "check the weights and the precision of the backbone that made them",
        )
    return Stored(half)


def _from_bfloat16(values: np.ndarray, _: np.ndarray | None) -> np.ndarray:
    return (values.astype(np.uint32) << 16).view(np.float32)


def _is_bfloat16(values: np.ndarray, _: np.ndarray | None = None) -> bool:
    return bool(((values & 0x7FFF) < _BFLOAT16_INFINITY).all())


STORAGE: dict[str, Storage] = {
    "int8": Storage(
        dtype="int8",
        encode=quantise,
        decode=dequantise,
        holds=_is_quantised,
        described="int8 values in -127..127 and finite float16 scales above 0",
        scaled=True,
    ),
    "float16": Storage(
        dtype="float16",
        encode=_to_float16,
        decode=lambda values, _: values.astype(np.float32),
        holds=lambda values, _: bool(np.isfinite(values).all()),
        described="finite float16 values",
    ),
    "bfloat16": Storage(
        dtype="uint16",
        encode=_to_bfloat16,
        decode=_from_bfloat16,
        holds=_is_bfloat16,
        described="the bits of finite bfloat16 values, as uint16",
    ),
}
