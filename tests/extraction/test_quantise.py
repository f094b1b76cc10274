"""The stored form made by torch against the one of the store, bit by bit."""

import numpy as np
import pytest
import torch

from regionspot_cache.errors import InputError
from regionspot_cache.extraction.quantise import stored_form
from regionspot_cache.store import STORAGE, StorageName

CHANNELS = 128


def hard_vectors() -> np.ndarray:
    """Zeros of both signs, denormals, every magnitude, values that lie on edges of rounding; [T, C]."""
    rng = np.random.default_rng(0)
    halves = np.arange(1, 0x7C00, 7, dtype=np.uint16).view(np.float16).astype(np.float32)  # scales
    edges = (halves[:-1] + halves[1:]) / 2  # between two of them
    largest = np.concatenate([halves, edges, np.nextafter(edges, 0), np.nextafter(edges, np.float32(np.inf))])
    largest = np.concatenate([largest * np.float32(127), largest, rng.uniform(1e-45, 1e-38, 50)])
    x = rng.uniform(-1, 1, (len(largest), CHANNELS)) * largest[:, None]
    x[np.arange(len(x)), rng.integers(CHANNELS, size=len(x))] = largest * rng.choice([-1, 1], len(x))
    ties = np.tile(np.arange(-63.5, 64.5), (1, CHANNELS // 128))
    ties[0, 0] = -127
    plain = np.array([[0.0] * CHANNELS, [-0.0] * CHANNELS, [1e-45] * CHANNELS])
    return np.concatenate([plain, ties, x]).astype(np.float32)


@pytest.mark.parametrize("dtype", STORAGE)
def test_values_and_scales_are_those_of_the_store_bit_by_bit(dtype: StorageName) -> None:
    largest = {"int8": 127 * 65504, "int4": 65504 * 6, "float16": 65504, "bfloat16": 3e38}[dtype]
    x = hard_vectors().clip(-largest, largest)
    expected, found = STORAGE[dtype].encode(x), stored_form(torch.from_numpy(x), dtype)
    assert found.good.all()
    assert found.good.shape == x.shape[:1]
    np.testing.assert_array_equal(found.values.numpy().view(expected.values.dtype), expected.values)
    assert (found.scale is None) == (expected.scale is None)
    if found.scale is not None and expected.scale is not None:
        np.testing.assert_array_equal(found.scale.numpy().view(np.int16), expected.scale.view(np.int16))


@pytest.mark.parametrize("dtype", STORAGE)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38, -8.5e6, 65520, 0])
def test_what_the_store_refuses_is_marked(dtype: StorageName, value: float) -> None:
    x = np.ones((3, CHANNELS), np.float32)
    x[1, 70] = value
    try:
        STORAGE[dtype].encode(x)
        refused = False
    except InputError:
        refused = True
    assert stored_form(torch.from_numpy(x), dtype).good.tolist() == [True, not refused, True]


def test_images_maps_and_half_precision_keep_their_shapes() -> None:
    x = torch.randn(2, 5, 8, dtype=torch.bfloat16)
    found = stored_form(x, "int8")
    assert found.scale is not None
    assert (found.values.shape, found.scale.shape, found.good.shape) == ((2, 5, 8), (2, 5), (2, 5))
    assert stored_form(torch.zeros(0, 8), "int8").values.shape == (0, 8)
