"""Masks of boxes: a few as pixels, all as run lengths."""

import numpy as np
import pytest
import torch

from regionspot_cache.evaluation.rle import decode_masks, encode_mask, encode_masks
from regionspot_cache.recognition import masks as module
from regionspot_cache.recognition.masks import BoxMasks

SIZE = (7, 5)


@pytest.fixture
def truth() -> np.ndarray:
    found = np.random.default_rng(0).random((20, *SIZE)) < 0.4
    found[3], found[4] = False, True
    return found


def boxes_of(truth: np.ndarray, asked: list[list[int]]) -> BoxMasks:
    def decode(boxes: np.ndarray) -> torch.Tensor:
        asked.append(boxes.tolist())
        return torch.from_numpy(truth[boxes])

    return BoxMasks(decode, SIZE)


def test_only_what_is_asked_for_is_decoded_and_once(truth: np.ndarray) -> None:
    asked: list[list[int]] = []
    masks = boxes_of(truth, asked)
    np.testing.assert_array_equal(masks.pixels([4, 2]), truth[[4, 2]])
    found = masks.take(np.array([2, 4, 9, 9]))
    assert found.rles(np.arange(4)) == [encode_mask(truth[i]) for i in (2, 4, 9, 9)]
    assert asked == [[4, 2], [9]]
    assert masks.pixels([]).shape == (0, *SIZE)
    assert len(masks.take([])) == 0


@pytest.mark.parametrize(("at_once", "lots"), [(1, 20), (3, 7), (20, 1)])
def test_pixels_of_no_more_than_a_chunk_are_there_at_once(
    at_once: int, lots: int, truth: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", at_once * SIZE[0] * SIZE[1])
    asked: list[list[int]] = []
    masks = boxes_of(truth, asked)
    masks.decode(20)
    assert len(asked) == lots
    assert max(map(len, asked)) == at_once
    chunks = list(masks.chunks(20))
    assert max(map(len, chunks)) == at_once
    np.testing.assert_array_equal(np.concatenate(chunks), truth)
    assert len(asked) == lots


def test_a_mask_larger_than_a_chunk_comes_alone(truth: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    asked: list[list[int]] = []
    boxes_of(truth, asked).take([5, 6])
    assert asked == [[5], [6]]


def test_run_lengths_of_more_masks_than_fit_in_8_bits() -> None:
    truth = np.random.default_rng(1).random((600, 3, 4)) < 0.5
    codes = encode_masks(truth)
    assert codes == [encode_mask(mask) for mask in truth]
    np.testing.assert_array_equal(decode_masks(codes, (3, 4)), truth)
