"""Accuracies and how sure they are."""

import numpy as np
import pytest

from regionspot_cache.evaluation.confidence import Counted, accuracies


def counted(right: np.ndarray, total: np.ndarray) -> Counted:
    return Counted(images=np.arange(len(total)), right=right, total=total)


def test_values_by_hand() -> None:
    total = np.array([[3, 0], [1, 1]])
    right = np.array([[[3, 0], [0, 0]], [[3, 0], [1, 1]]])
    before, after = accuracies(counted(right, total))
    assert before["top1"]["value"] == pytest.approx(60)
    assert before["class_mean"]["value"] == pytest.approx(100 * (3 / 4 + 0) / 2)
    assert after["top1"]["value"] == after["class_mean"]["value"] == pytest.approx(100)
    assert after["top1"]["low"] == after["top1"]["high"] == pytest.approx(100)
    assert after["top1"]["gain"]["value"] == pytest.approx(40)
    assert "gain" not in before["top1"]


def test_the_interval_is_that_of_a_share() -> None:
    """One box an image: the normal approximation of a binomial."""
    rng = np.random.default_rng(0)
    right = (rng.random((1, 400, 1)) < 0.7).astype(np.int64)
    [found] = accuracies(counted(right, np.ones((400, 1), np.int64)))
    share = right.mean()
    half = 196 * np.sqrt(share * (1 - share) / 400)
    assert found["top1"]["low"] == pytest.approx(100 * share - half, abs=0.7)
    assert found["top1"]["high"] == pytest.approx(100 * share + half, abs=0.7)


def test_equal_heads_gain_nothing_for_sure() -> None:
    right = np.repeat(np.random.default_rng(1).integers(0, 2, (1, 50, 3)), 2, axis=0)
    gain = accuracies(counted(right, np.ones((50, 3), np.int64)))[1]["class_mean"]["gain"]
    assert gain == {"value": 0, "low": 0, "high": 0}


def test_images_without_regions_do_not_count() -> None:
    right, total = np.zeros((1, 4, 2), np.int64), np.zeros((4, 2), np.int64)
    right[0, 0, 1] = total[0, 1] = 1
    [found] = accuracies(counted(right, total))
    assert found["top1"] == {"value": 100, "low": 100, "high": 100}
