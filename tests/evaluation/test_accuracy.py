import numpy as np
import pytest

from regionspot_cache.errors import InputError
from regionspot_cache.evaluation import AccuracyMeter


def test_equals_sorting() -> None:
    rng = np.random.default_rng(0)
    scores, labels = np.round(rng.random((200, 9)), 1), rng.integers(0, 8, 200).astype(np.int32)
    meter = AccuracyMeter(9)
    for part in np.array_split(np.arange(200), 7):
        meter.update(scores[part], labels[part])
    ranked = np.argsort(-scores, axis=1, kind="stable")
    right1, right5 = ranked[:, 0] == labels, (ranked[:, :5] == labels[:, None]).any(axis=1)
    summary = meter.summary("rrrcccfff", {"novel": [1, 4], "absent": [8]})
    assert summary["boxes"] == 200
    assert summary["top1"] == pytest.approx(right1.mean())
    assert summary["top5"] == pytest.approx(right5.mean())
    assert summary["top1 r"] == pytest.approx(right1[labels < 3].mean())
    assert summary["top5 novel"] == pytest.approx(right5[np.isin(labels, [1, 4])].mean())
    assert summary["top1 absent"] == -1
    by_class = [right1[labels == c].mean() for c in range(8)]
    assert summary["top1 mean over classes"] == pytest.approx(np.mean(by_class))


def test_no_boxes() -> None:
    assert AccuracyMeter(3).summary()["top1"] == -1
    assert "top1 r" not in AccuracyMeter(3).summary(["", "", ""])


@pytest.mark.parametrize("scores", [np.ones((2, 3)), np.full((1, 3), np.nan), np.ones((1, 4))])
def test_scores_must_fit(scores: np.ndarray) -> None:
    with pytest.raises(InputError):
        AccuracyMeter(3).update(scores, np.zeros(1, np.int32))
