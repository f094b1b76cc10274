"""The threshold below which names are not kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.label_review import best_threshold
from regionspot_cache.errors import InputError


def balanced(threshold: float, scores: np.ndarray, right: np.ndarray) -> float:
    kept = scores >= threshold
    return float(kept[right].mean() + (~kept)[~right].mean()) / 2


@given(st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=2, max_size=30))
def test_no_threshold_tells_right_names_better(boxes: list[tuple[int, bool]]) -> None:
    scores = np.array([score / 10 for score, _ in boxes], np.float32)
    right = np.array([flag for _, flag in boxes])
    if right.all() or not right.any():
        with pytest.raises(InputError, match="none has a"):
            best_threshold(scores, right)
        return
    found = best_threshold(scores, right)
    best = max(balanced(float(score), scores, right) for score in scores)
    assert balanced(found, scores, right) == pytest.approx(best)
