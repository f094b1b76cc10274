"""Storage types: which arrays each keeps of float32 features, and the way there and back.

Another type is a name in `StorageName` and an entry of `STORAGE`. One that numpy lacks is stored as the bits
of its values, or packs several into one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import numpy as np

from regionspot_cache.errors import InputError

StorageName = Literal["int8", "float16", "bfloat16", "int4"]

# By numpy dtype, of plan and features: values that stored data never takes, so stock zarr leaves out exactly
# the inner chunks that hold no record, and a stray read of one shows up as -128 or NaN, never as a plausible
# zero. (Symmetric quantisation yields -127..127; all bits set are a NaN of bfloat16; no
# half of a byte of int4 is 0.)
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
GROUP = 64  # channels of an int4 vector that share a scale, at most
# The value of code 8 + k of int4, k = -7..7, is k (64 + k^2) / 128 times the scale: finer near zero, where
# most features lie, than equal steps. Code 0 is that of no value.
_CODES = np.arange(-8, 8, dtype=np.float32)
_INT4 = _CODES * (64 + _CODES**2) / 128
INT4_LARGEST = float(_INT4[-1])
INT4_BOUNDS = ((_INT4[8:-1] + _INT4[9:]) / 2).tolist()  # of magnitudes, between neighbouring values
# float32 [256, 2], the two values of a byte of int4: that of the lower half first
INT4_PAIRS = np.stack([np.tile(_INT4, 16), np.repeat(_INT4, 16)], 1)
_BLOCK_VALUES = 1 << 20  # keeps float32 temporaries in the processor's cache
_BFLOAT16_INFINITY = 0x7F80


class Stored(NamedTuple):
    """Features as they are stored: values [..., C], and of int8 a float16 scale [...] a vector.

    int4 has values [..., C / 2], two channels a byte, and scales [..., G] of groups of C / G channels.
    """

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
    """A storage type.

    Attributes:
        dtype: of its values, for numpy.
        torch_dtype: the name of what torch sees their bits as.
        bits: of one value; a type of more bits is the finer one.
        encode: from float features [..., C]; InputError for what cannot be stored.
        decode: float32 [..., C] from values and scale.
        holds: whether values and scale are such as `encode` makes.
        described: these, in words.
        scaled: scales are stored, one for each vector unless `groups` says how many by its channels.
        groups: also that two channels are packed into a byte.
    """

    dtype: str
    torch_dtype: str
    bits: int
    encode: Callable[[np.ndarray], Stored]
    decode: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    holds: Callable[[np.ndarray, np.ndarray | None], bool]
    described: str
    scaled: bool = False
    groups: Callable[[int], int] | None = None

    def fits(self, item_shape: tuple[int, ...]) -> bool:
        """Whether it can hold records of a shape."""
        return self.groups is None or item_shape[-1] % 2 == 0

    def arrays(self, name: str, item_shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        """What is stored of an array, the values first: numpy dtype and shape of a record, by name."""
        *rows, channels = item_shape
        if self.groups is not None:
            scales = ("float16", (*rows, self.groups(channels)))
            return {name: (self.dtype, (*rows, channels // 2)), name + SCALE: scales}
        values = {name: (self.dtype, item_shape)}
        return values | {name + SCALE: ("float16", item_shape[:-1])} if self.scaled else values

    def empty(self, shape: tuple[int, ...]) -> Stored:
        """Room for features [..., C]."""
        return Stored(*(np.empty(item, dtype) for dtype, item in self.arrays("", shape).values()))

    def record_bytes(self, item_shape: tuple[int, ...]) -> int:
        """Bytes of one record."""
        return sum(array.nbytes for array in self.empty(item_shape) if array is not None)

    def require(self, name: str, stored: Stored, shape: tuple[int, ...]) -> None:
        """Refuses what `encode` would not have made of features of a shape. Raises InputError."""
        values, scale = stored
        shapes = [shape for _, shape in self.arrays("", shape).values()]
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
    scale[:] = _scales(x, LEVELS)
    values[:] = np.rint(x / scale.astype(np.float32)[:, None])


def _scales(x: np.ndarray, levels: float) -> np.ndarray:
    """float16 [...]: max|x| / levels of x [..., C], rounded up. Raises InputError."""
    largest = np.maximum(x.max(axis=-1, initial=0), -x.min(axis=-1, initial=0))  # NaN spreads
    with np.errstate(over="ignore"):
        rounded = (largest / np.float32(levels)).astype(np.float16)
    too_small = rounded.astype(np.float32) * np.float32(levels) < largest
    rounded = np.where(too_small, np.nextafter(rounded, np.float16(np.inf)), rounded)
    rounded = np.where(largest == 0, np.float16(1), rounded)
    if not np.isfinite(rounded).all():
        raise InputError(
            "features with NaN, infinite or enormous values cannot be quantised",
            f"finite values below {int(levels * 65504):,}",
            "check the weights and the precision of the backbone that made them",
        )
    return rounded


def dequantise(values: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """float32 [..., C] from int8 values [..., C] and float16 scale [...]."""
    assert scale is not None
    return values.astype(np.float32) * scale.astype(np.float32)[..., None]


def _is_quantised(values: np.ndarray, scale: np.ndarray | None) -> bool:
    good = scale is not None and scale.dtype == np.float16 and (np.isfinite(scale) & (scale > 0)).all()
    return bool(good) and not (values == -128).any()


def int4_groups(channels: int) -> int:
    """The fewest equal groups of at most `GROUP` channels."""
    return next(n for n in range(max(1, -(-channels // GROUP)), channels + 1) if channels % n == 0)


def _to_int4(x: np.ndarray) -> Stored:
    """Packs [..., C]; the scale of a group is max|x| over the largest value of a code, rounded up."""
    flat = np.ascontiguousarray(x).reshape(-1, x.shape[-1])  # [T, C]
    channels, groups = x.shape[-1], int4_groups(x.shape[-1])
    values = np.empty((len(flat), channels // 2), np.uint8)
    scale = np.empty((len(flat), groups), np.float16)
    step = max(1, _BLOCK_VALUES // max(1, flat.shape[1]))
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        block = flat[part].astype(np.float32, copy=False).reshape(-1, groups, channels // groups)
        scale[part] = _scales(block, INT4_LARGEST)
        _pack(block / scale[part].astype(np.float32)[..., None], values[part])
    return Stored(values.reshape(*x.shape[:-1], channels // 2), scale.reshape(*x.shape[:-1], groups))


def _pack(x: np.ndarray, values: np.ndarray) -> None:
    """The nearest codes of x [t, G, C / G], in units of the scale, into values [t, C / 2]."""
    magnitude, codes = np.abs(x), np.zeros(x.shape, np.uint8)
    for bound in INT4_BOUNDS:
        codes += magnitude > bound
    codes = np.where(x < 0, 8 - codes, 8 + codes).reshape(len(x), 2 * values.shape[1])
    values[:] = codes[:, ::2] | codes[:, 1::2] << 4


def _from_int4(values: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    assert scale is not None
    pairs = INT4_PAIRS.view(np.uint64)[:, 0].take(values)  # one look-up gives two channels
    channels, groups = 2 * values.shape[-1], scale.shape[-1]
    x = pairs.view(np.float32).reshape(*scale.shape, channels // groups)
    x *= scale.astype(np.float32)[..., None]
    return x.reshape(*scale.shape[:-1], channels)


def _is_int4(values: np.ndarray, scale: np.ndarray | None) -> bool:
    good = scale is not None and scale.dtype == np.float16 and (np.isfinite(scale) & (scale > 0)).all()
    return bool(good) and bool(((values & 15 > 0) & (values > 15)).all())


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
        torch_dtype="int8",
        bits=8,
        encode=quantise,
        decode=dequantise,
        holds=_is_quantised,
        described="int8 values in -127..127 and finite float16 scales above 0",
        scaled=True,
    ),
    "float16": Storage(
        dtype="float16",
        torch_dtype="float16",
        bits=16,
        encode=_to_float16,
        decode=lambda values, _: values.astype(np.float32),
        holds=lambda values, _: bool(np.isfinite(values).all()),
        described="finite float16 values",
    ),
    "bfloat16": Storage(
        dtype="uint16",
        torch_dtype="bfloat16",
        bits=16,
        encode=_to_bfloat16,
        decode=_from_bfloat16,
        holds=_is_bfloat16,
        described="the bits of finite bfloat16 values, as uint16",
    ),
    "int4": Storage(
        dtype="uint8",
        torch_dtype="uint8",
        bits=4,
        encode=_to_int4,
        decode=_from_int4,
        holds=_is_int4,
        described="bytes of two codes in 1..15 and finite float16 scales above 0",
        scaled=True,
        groups=int4_groups,
    ),
}


def array_dtype(dtype: StorageName, item_shape: tuple[int, ...], *, per_box: bool) -> StorageName:
    """The type of one array of a part that is stored as `dtype`.

    int4 is for maps; vectors of boxes, which take little room, and what it cannot hold are int8 then.
    """
    unsuited = dtype == "int4" and (per_box or not STORAGE[dtype].fits(item_shape))
    return "int8" if unsuited else dtype
