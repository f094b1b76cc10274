import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regionspot_cache.errors import InputError
from regionspot_cache.evaluation import SCORE_RULES, select_top_k


def plain_selection(probabilities: np.ndarray, box_scores: np.ndarray, rule: str, k: int, preselect: int):
    """All pairs as a sorted list; Python's sort keeps the order of equal ones."""
    pairs = [(n, c) for n in range(probabilities.shape[0]) for c in range(probabilities.shape[1])]
    if rule == "official":
        pairs = sorted(sorted(pairs, key=lambda p: -probabilities[p])[:preselect])
    if rule == "rc-compat":
        return plain_compat(probabilities, box_scores, k)
    product = (probabilities * box_scores[:, None]).astype(np.float32)
    scores = np.sqrt(product) if rule == "geometric" else product
    best = sorted(pairs, key=lambda p: -scores[p])[:k]
    return [p[0] for p in best], [p[1] for p in best], [scores[p] for p in best]


def plain_compat(probabilities: np.ndarray, box_scores: np.ndarray, k: int):
    """RegionCLIP's code: the root of probability and logit, whatever is not finite left out."""
    scores = {}
    for n, objectness in enumerate(box_scores.tolist()):
        objectness = min(objectness, 1 - 2**-24)
        logit = np.log(objectness / (1 - objectness)) if objectness else -np.inf
        for c, probability in enumerate(probabilities[n].tolist()):
            if logit >= 0:
                scores[n, c] = np.sqrt(probability * logit)
    best = sorted(scores, key=lambda p: -scores[p])[:k]
    return [p[0] for p in best], [p[1] for p in best], pytest.approx([scores[p] for p in best], rel=1e-5)


@given(
    st.integers(0, 10**6), st.integers(0, 6), st.integers(1, 6), st.sampled_from(SCORE_RULES), st.booleans()
)
def test_equals_plain_sort(seed: int, boxes: int, classes: int, rule: str, tied: bool) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.random((boxes, classes)).astype(np.float32)
    if tied:
        probabilities = np.round(probabilities, 1)
    box_scores = rng.integers(0, 3, boxes).astype(np.float32) / 2
    chosen = select_top_k(probabilities, box_scores, rule, k=7, preselect=11)
    box, label, scores = plain_selection(probabilities, box_scores, rule, 7, 11)
    assert chosen.box_index.tolist() == box
    assert chosen.class_index.tolist() == label
    assert chosen.scores.tolist() == scores


def test_rules_differ() -> None:
    """The official rule spends its first choice on the probable classes of a poor box."""
    probabilities = np.array([[0.9, 0.8], [0.5, 0.4]], np.float32)
    objectness = np.array([0.1, 1.0], np.float32)
    product = select_top_k(probabilities, objectness, k=2, preselect=2)
    official = select_top_k(probabilities, objectness, "official", k=2, preselect=2)
    geometric = select_top_k(probabilities, objectness, "geometric", k=2)
    assert product.box_index.tolist() == geometric.box_index.tolist() == [1, 1]
    assert official.box_index.tolist() == [0, 0]
    np.testing.assert_allclose(geometric.scores**2, product.scores, rtol=1e-6)


def test_raw_logits_may_exceed_one_and_drop_what_is_negative() -> None:
    probabilities = np.array([[0.5, 0.25]] * 4, np.float32)
    logits = np.array([8, -2, 0, 1], np.float32)
    chosen = select_top_k(probabilities, 1 / (1 + np.exp(-logits)), "rc-compat")
    assert chosen.box_index.tolist() == [0, 0, 3, 3, 2, 2]
    np.testing.assert_allclose(chosen.scores, [2, 2**0.5, 0.5**0.5, 0.5, 0, 0], rtol=1e-4)


@pytest.mark.parametrize("rule", SCORE_RULES)
def test_ground_truth_boxes_have_no_score(rule: str) -> None:
    probabilities = np.random.default_rng(0).random((5, 9), np.float32)
    chosen = select_top_k(probabilities, None, rule, k=300)
    assert len(chosen.scores) == 45
    np.testing.assert_array_equal(chosen.scores, np.sort(probabilities.ravel())[::-1])


def test_float16_probabilities_are_scored_in_float32() -> None:
    probabilities = np.full((1, 2), 6e-8, np.float16)
    scores = select_top_k(probabilities, np.array([0.5], np.float32)).scores
    assert scores.dtype == np.float32
    assert (scores > 0).all()


@pytest.mark.parametrize("bad", [np.array([1.5, 0]), np.array([-0.1, 0]), np.array([np.nan, 0]), np.ones(3)])
def test_objectness_must_be_a_probability(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="objectness"):
        select_top_k(np.ones((2, 3)), bad)


def test_bad_probabilities_and_rules() -> None:
    with pytest.raises(InputError, match="not finite"):
        select_top_k(np.array([[np.nan]]), None)
    with pytest.raises(InputError, match="score rule 'best'"):
        select_top_k(np.ones((1, 1)), None, "best")
