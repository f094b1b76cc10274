"""Round trips of the quantiser."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from regionspot_cache.errors import InputError
from regionspot_cache.store import dequantise, quantise
from regionspot_cache.store.quantise import to_half_precision

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
    with pytest.raises(InputError, match="float16"):
        to_half_precision(x)
