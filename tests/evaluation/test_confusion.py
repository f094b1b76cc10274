"""Confusion: sparse counts equal a dense matrix; near classes are near by cosine in both directions."""

import numpy as np
import pytest

from regionspot_cache.errors import InputError
from regionspot_cache.evaluation import confusion as module
from regionspot_cache.evaluation.confusion import Confusion, ConfusionMeter

K, N = 30, 4000


def measured(probabilities: np.ndarray, labels: np.ndarray, parts: int = 1) -> Confusion:
    meter = ConfusionMeter(probabilities.shape[1])
    for part in np.array_split(np.arange(len(labels)), parts):
        meter.update(probabilities[part], labels[part])
    return meter.result()


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities [N,K] with ties, labels [N] without class 29, the dense matrix [K,K]."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K - 1, N).astype(np.int32)
    probabilities = np.round(rng.random((N, K)), 1).astype(np.float32)
    probabilities[np.arange(N), labels] += rng.random(N).astype(np.float32) / 4
    dense = np.zeros((K, K), np.int64)
    for row, label in zip(probabilities, labels, strict=True):
        dense[label, int(np.flatnonzero(row == row.max())[0])] += 1
    return probabilities, labels, dense


def test_counts_equal_a_dense_matrix(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    probabilities, labels, dense = drawn
    found = measured(probabilities, labels, parts=9)
    sparse = np.zeros((K, K), np.int64)
    sparse[found.true, found.predicted] = found.count
    np.testing.assert_array_equal(sparse, dense)
    assert (found.count > 0).all()
    np.testing.assert_array_equal(found.boxes, dense.sum(1))


def test_errors_and_what_is_taken_for_what(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    probabilities, labels, dense = drawn
    found = measured(probabilities, labels)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found.top1_error(), 1 - dense.diagonal() / dense.sum(1))
    assert np.isnan(found.top1_error()[K - 1])
    off = dense - np.diag(dense.diagonal())
    taken_for, boxes = found.most_often()
    np.testing.assert_array_equal(boxes, off.max(1))
    np.testing.assert_array_equal(taken_for, np.where(off.max(1) > 0, off.argmax(1), -1))


@pytest.mark.parametrize("rows", [4, 256])
def test_near_pairs_equal_a_dense_search(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    probabilities, labels, dense = drawn
    text = np.random.default_rng(1).normal(size=(K, 8)).astype(np.float32)
    unit = text / np.linalg.norm(text, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    nearest = [set(np.argsort(-row)[:4].tolist()) for row in cosine]
    expected = {
        (t, p): (dense[t, p], dense[t, p] / dense[t].sum(), cosine[t, p])
        for t in range(K)
        for p in nearest[t]
        if t in nearest[p] and dense[t, p]
    }
    pairs = measured(probabilities, labels).near_pairs(text, neighbours=4)
    assert {(pair.true, pair.predicted) for pair in pairs} == set(expected)
    for pair in pairs:
        found = (pair.count, pair.rate, pair.similarity)
        assert found == pytest.approx(expected[pair.true, pair.predicted], abs=1e-6)
    counts = [pair.count for pair in pairs]
    assert counts == sorted(counts, reverse=True)


def test_near_needs_both_directions() -> None:
    angles = np.radians([0, 50, 60, 70])  # the nearest of class 0 is class 1, whose nearest is class 2
    text = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    answers = np.eye(4, dtype=np.float32)[[1, 2]]
    pairs = measured(answers, np.array([0, 1], np.int32)).near_pairs(text, neighbours=1)
    assert [(pair.true, pair.predicted) for pair in pairs] == [(1, 2)]
    assert pairs[0].similarity == pytest.approx(np.cos(np.radians(10)), abs=1e-6)


def test_many_classes_take_memory_by_pairs_that_occur() -> None:
    meter = ConfusionMeter(13_204)
    for label in (0, 13_203):
        probabilities = np.zeros((2, 13_204), np.float32)
        probabilities[:, 13_203] = 1
        meter.update(probabilities, np.full(2, label, np.int32))
    found = meter.result()
    assert (found.true.tolist(), found.predicted.tolist()) == ([0, 13_203], [13_203, 13_203])
    assert found.count.tolist() == [2, 2]


def test_no_boxes() -> None:
    meter = ConfusionMeter(3)
    meter.update(np.zeros((0, 3), np.float32), np.zeros(0, np.int32))
    found = meter.result()
    assert np.isnan(found.top1_error()).all()
    assert found.most_often()[0].tolist() == [-1, -1, -1]
    assert found.near_pairs(np.ones((3, 2), np.float32)) == []


def test_shapes_must_fit() -> None:
    with pytest.raises(InputError, match=r"\[1, 4\] for 2 boxes"):
        ConfusionMeter(3).update(np.zeros((1, 4), np.float32), np.zeros(2, np.int32))
    with pytest.raises(InputError, match=r"\[3, E\]"):
        ConfusionMeter(3).result().near_pairs(np.ones((2, 5), np.float32))
