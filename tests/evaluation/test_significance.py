"""Draws of images, intervals, and McNemar's test."""

from math import comb

import numpy as np
import pytest

from regionspot_cache.evaluation import significance
from regionspot_cache.evaluation.significance import accuracy_samples, difference, image_weights, mcnemar


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 5), (3, 3), (4, 9), (30, 11)])
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int) -> None:
    tail = sum(comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert mcnemar(b, c) == pytest.approx(min(1, 2 * tail), rel=1e-9)
    assert mcnemar(b, c) == mcnemar(c, b)


def test_mcnemar_of_many_objects_stays_finite() -> None:
    assert mcnemar(50_000, 50_100) == pytest.approx(0.754, abs=0.01)
    assert mcnemar(50_000, 60_000) < 1e-100


def test_draws_follow_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(image_weights(6, 9, 4)))
    monkeypatch.setattr(significance, "_AT_ONCE", 20)
    blocks = list(image_weights(6, 9, 4, width=10))
    assert [len(block) for block in blocks] == [2, 2, 2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    assert (whole.sum(axis=1) == 6).all()
    assert not np.array_equal(whole, np.concatenate(list(image_weights(6, 9, 5))))
    assert list(image_weights(6, 0, 4)) == []


def test_accuracy_in_draws_is_that_of_the_drawn_images() -> None:
    right = np.array([True, False, False, True, True])
    image_of = np.array([0, 0, 2, 2, 3])  # image 1 has no object
    samples = accuracy_samples(right, image_of, 4, 50, 0)
    for weights, sample in zip(np.concatenate(list(image_weights(4, 50, 0))), samples, strict=True):
        drawn = np.repeat(right, weights[image_of])
        assert sample == pytest.approx(drawn.mean()) if len(drawn) else np.isnan(sample)


def test_the_interval_holds_what_differs_always_and_not_what_is_the_same() -> None:
    rng = np.random.default_rng(0)
    image_of = np.repeat(np.arange(200), 3)
    good, bad, same = (rng.random(600) < share for share in (0.7, 0.4, 0.4))
    a, b, c = (accuracy_samples(right, image_of, 200, 300, 1) for right in (bad, good, same))
    clear = difference(bad.mean(), good.mean(), a, b)
    assert 0 < clear.low < clear.difference < clear.high
    unclear = difference(bad.mean(), same.mean(), a, c)
    assert unclear.low < 0 < unclear.high
    assert clear.to_json()["difference"] == clear.difference
    none = difference(0.5, float("nan"), np.zeros(0), np.zeros(0))
    assert none.to_json() == dict.fromkeys(("second", "low", "high", "difference"), None) | {"first": 0.5}
