"""Round trips of the storage types."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from regionspot_cache.errors import InputError
from regionspot_cache.store import STORAGE, ArraySpec, PartSpec, StorageName, dequantise, quantise
from regionspot_cache.store.storage import FILL_VALUES, array_dtype

FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=True)
ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=9), elements=FLOATS)


@given(ARRAYS)
def test_error_is_at_most_half_a_step_and_scale_is_never_zero(x: np.ndarray) -> None:
    values, scale = quantise(x)
    assert values.dtype == np.int8
    assert scale.dtype == np.float16
    assert values.min() >= -127  # -128 is the fill value of absent records
    assert (scale > 0).all()
    error = np.abs(dequantise(values, scale).astype(np.float64) - x)
    assert (error <= scale.astype(np.float64)[..., None] * (0.5 + 1e-4)).all()


@given(ARRAYS)
def test_quantising_again_changes_nothing_once_the_largest_value_is_a_level(x: np.ndarray) -> None:
    x[..., 0] = 127 * 2.0**8  # scale 256 exactly
    x = np.clip(x, -127 * 256, 127 * 256)
    once = dequantise(*quantise(x))
    again = dequantise(*quantise(once))
    np.testing.assert_array_equal(once, again)


def test_zero_tokens_come_back_as_zeros() -> None:
    values, scale = quantise(np.zeros((3, 4), np.float32))
    assert (values == 0).all()
    assert (scale == 1).all()


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(50, 3, 16)).astype(np.float32)
    whole = quantise(x)
    monkeypatch.setattr(sys.modules[quantise.__module__], "_BLOCK_VALUES", 40)
    for ours, theirs in zip(quantise(x), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_typical_features_keep_their_direction() -> None:
    x = np.random.default_rng(0).normal(size=(500, 1024)).astype(np.float32)
    back = dequantise(*quantise(x))
    cosine = (x * back).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(back, axis=1)
    assert cosine.min() >= 0.9995


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e9])
def test_bad_values_are_refused(bad: float) -> None:
    x = np.ones((2, 8), np.float32)
    x[1, 3] = bad
    with pytest.raises(InputError, match="NaN, infinite"):
        quantise(x)
    with pytest.raises(InputError, match="as float16"):
        STORAGE["float16"].encode(x)


@given(ARRAYS)
def test_bfloat16_is_that_of_torch_and_within_its_error(x: np.ndarray) -> None:
    values, scale = STORAGE["bfloat16"].encode(x)
    assert (values.dtype, values.shape, scale) == (np.uint16, x.shape, None)
    rounded = torch.from_numpy(x).to(torch.bfloat16)
    np.testing.assert_array_equal(values, rounded.view(torch.int16).numpy().view(np.uint16))
    back = STORAGE["bfloat16"].decode(values, scale)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, rounded.float().numpy())
    assert (np.abs(back - x) <= np.abs(x) * 2.0**-8 + 2.0**-134).all()


@pytest.mark.parametrize(("value", "bits"), [(1 + 2**-8, 0x3F80), (1 + 3 * 2**-8, 0x3F82), (-0.0, 0x8000)])
def test_bfloat16_rounds_ties_to_even(value: float, bits: int) -> None:
    assert STORAGE["bfloat16"].encode(np.array([value], np.float32)).values.tolist() == [bits]


@pytest.mark.parametrize("bits", [0x7F800000, 0xFF800000, 0x7FC00000, 0xFFFFFFFF, 0x7F800001, 0x7F7FFFFF])
def test_what_bfloat16_cannot_hold_is_refused(bits: int) -> None:
    x = np.ones((2, 8), np.float32)
    x.view(np.uint32)[1, 3] = bits
    with pytest.raises(InputError, match="as bfloat16"):
        STORAGE["bfloat16"].encode(x)


@pytest.mark.parametrize("name", STORAGE)
def test_every_type_describes_what_it_makes(name: StorageName) -> None:
    storage = STORAGE[name]
    x = np.random.default_rng(0).normal(size=(6, 3, 8)).astype(np.float32)
    stored = storage.encode(x)
    storage.require("map", stored, x.shape)
    made = [(each.dtype.name, each.shape[1:]) for each in stored if each is not None]
    assert list(storage.arrays("map", (3, 8)).values()) == made
    room = storage.empty(x.shape)
    for start in (0, 3):
        room.put(slice(start, start + 3), stored.take(np.arange(start, start + 3)))
    np.testing.assert_array_equal(storage.decode(*room), storage.decode(*stored))
    coarse = name == "int4"
    np.testing.assert_allclose(
        storage.decode(*stored), x, atol=0.4 if coarse else 0.02, rtol=0 if coarse else 2**-8
    )
    assert storage.record_bytes((3, 8)) * 6 == sum(each.nbytes for each in stored if each is not None)
    empty = room._replace(values=np.full_like(room.values, FILL_VALUES[room.values.dtype.name]))
    with pytest.raises(InputError, match="out of range"):
        storage.require("map", empty, x.shape)
    assert getattr(torch, storage.torch_dtype).itemsize == stored.values.itemsize


EVEN = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 4), st.integers(1, 100).map(lambda n: 2 * n)),
    elements=st.floats(-1e5, 1e5, width=32),
)
CODES = [k * (64 + k * k) / 128 for k in range(-7, 8)]


@given(EVEN)
def test_int4_takes_the_nearest_value_of_its_group(x: np.ndarray) -> None:
    values, scale = STORAGE["int4"].encode(x)
    assert scale is not None
    assert (scale > 0).all()
    assert 0 < x.shape[1] // scale.shape[1] <= 64
    codes = np.stack([values & 15, values >> 4], -1).reshape(x.shape)  # the lower half first
    assert (codes >= 1).all()  # 0 is that of absent records
    steps = scale.astype(np.float32).repeat(x.shape[1] // scale.shape[1], axis=1)
    back = STORAGE["int4"].decode(values, scale)
    np.testing.assert_array_equal(back, np.array(CODES, np.float32)[codes - 1] * steps)
    distances = np.abs(np.array(CODES)[:, None, None] * steps - x).min(0)
    assert (np.abs(back.astype(np.float64) - x) <= distances + 1e-5 * steps).all()
    assert (np.abs(x) <= CODES[-1] * steps.astype(np.float64)).all()
    again = STORAGE["int4"].encode(back)
    np.testing.assert_array_equal(STORAGE["int4"].decode(*again), back)


@pytest.mark.parametrize(("channels", "groups"), [(1024, 16), (768, 12), (192, 3), (64, 1), (12, 1), (94, 2)])
def test_groups_of_int4_are_equal_and_few(channels: int, groups: int) -> None:
    assert STORAGE["int4"].arrays("map", (257, channels)) == {
        "map": ("uint8", (257, channels // 2)),
        "map_scale": ("float16", (257, groups)),
    }


def test_int4_of_a_large_map_is_half_of_int8() -> None:
    assert STORAGE["int4"].record_bytes((257, 1024)) == 139_808
    assert STORAGE["int8"].record_bytes((257, 1024)) == 263_682
    x = np.random.default_rng(0).normal(size=(500, 1024)).astype(np.float32)
    back = STORAGE["int4"].decode(*STORAGE["int4"].encode(x))
    cosine = (x * back).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(back, axis=1)
    assert cosine.min() >= 0.993


def test_blocks_of_int4_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(50, 3, 16)).astype(np.float16)
    whole = STORAGE["int4"].encode(x)
    monkeypatch.setattr(sys.modules[quantise.__module__], "_BLOCK_VALUES", 40)
    for ours, theirs in zip(STORAGE["int4"].encode(x), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e6])
def test_what_int4_cannot_hold_is_refused(bad: float) -> None:
    x = np.ones((2, 8), np.float32)
    x[1, 3] = bad
    with pytest.raises(InputError, match="NaN, infinite"):
        STORAGE["int4"].encode(x)


def test_int4_is_for_maps_of_an_even_number_of_channels() -> None:
    assert array_dtype("int4", (257, 1024), per_box=False) == "int4"
    assert array_dtype("int4", (257, 9), per_box=False) == "int8"
    assert array_dtype("int4", (256,), per_box=True) == "int8"
    assert array_dtype("float16", (256,), per_box=True) == "float16"
    odd = ArraySpec(name="map", dtype="int4", item_shape=(5, 9), ragged=False)
    with pytest.raises(InputError, match="even number"):
        PartSpec(name="clip", arrays=(odd,), fingerprint={})
