"""Greedy matching against the loops of the papers' code, written out."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot_cache.errors import InputError
from regionspot_cache.evaluation.average_precision import judge, judging
from regionspot_cache.evaluation.ground_truth import ground_truth
from regionspot_cache.evaluation.matching import (
    IGNORED,
    MATCHED,
    MIN_IOU,
    UNMATCHED,
    Edges,
    Pairs,
    match,
    shared_pairs,
)
from regionspot_cache.evaluation.metrics import IOU_THRESHOLDS
from tests.evaluation.synthetic import Problem, annotations, detections


def plain_matching(iou: np.ndarray, ignore: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Outcome [D,T] of one image and category with overlaps [D,G]: best free annotation, one by one."""
    outcome = np.full((len(iou), len(IOU_THRESHOLDS)), UNMATCHED)
    for t, threshold in enumerate(IOU_THRESHOLDS):
        free = np.ones(len(ignore), bool)
        for d, row in enumerate(iou):
            for group, result in ((~ignore, MATCHED), (ignore, IGNORED)):
                usable = group & free & (row >= min(threshold, 1 - 1e-10))
                if usable.any():
                    best = row[usable].max()
                    taken = np.flatnonzero(usable & (row == best))[-1]
                    free[taken] = crowd[taken]
                    outcome[d, t] = result
                    break
    return outcome


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 6), st.integers(1, 4))
def test_equals_plain_loops(seed: int, num_detections: int, num_annotations: int, num_pairs: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (num_pairs, num_detections, num_annotations)
    # A coarse grid makes equal overlaps, and overlaps equal to thresholds, common.
    iou = IOU_THRESHOLDS[rng.integers(0, 10, shape)] * rng.choice([0.5, 1, 1], shape)
    ignore = rng.random((num_pairs * num_annotations, 2)) < 0.3
    crowd = ignore.all(axis=1) & (rng.random(len(ignore)) < 0.5)
    pair, d, g = np.nonzero(iou >= MIN_IOU)
    edges = Edges(
        detection=pair * num_detections + d, annotation=pair * num_annotations + g, iou=iou[pair, d, g]
    )
    pair_of = np.repeat(np.arange(num_pairs), num_detections)
    found = match(edges, pair_of, ignore, crowd, IOU_THRESHOLDS)
    outcome = np.zeros((num_pairs * num_detections, 2, len(IOU_THRESHOLDS)), np.uint8)
    outcome[found.detection] = found.outcome
    for p in range(num_pairs):
        rows = slice(p * num_detections, (p + 1) * num_detections)
        own = slice(p * num_annotations, (p + 1) * num_annotations)
        for a in range(2):
            np.testing.assert_array_equal(
                outcome[rows, a], plain_matching(iou[p], ignore[own, a], crowd[own])
            )


@given(st.lists(st.integers(0, 5), max_size=30), st.lists(st.integers(0, 5), max_size=30))
def test_shared_pairs(left: list[int], right: list[int]) -> None:
    left, right = sorted(left), sorted(right)
    pairs = shared_pairs(np.array(left, np.int64), np.array(right, np.int64))
    assert [left[i] for i in pairs.detection_start] == sorted(set(left) & set(right))
    for start, count, other, other_count in zip(*vars(pairs).values(), strict=True):
        assert left[start : start + count] == [left[start]] * left.count(left[start])
        assert right[other : other + other_count] == [left[start]] * right.count(left[start])


def test_chunks_cover_all_pairs() -> None:
    counts = np.array([900, 2000, 1, 1, 3000, 5])
    pairs = Pairs(
        detection_start=np.cumsum(counts) - counts,
        detection_count=counts,
        annotation_start=np.arange(6) * 500,
        annotation_count=np.full(6, 500),
    )
    chunks = list(pairs.chunks())
    assert len(chunks) > 2
    for name, column in vars(pairs).items():
        np.testing.assert_array_equal(np.concatenate([getattr(chunk, name) for chunk in chunks]), column)


@pytest.mark.parametrize("federated", [True, False])
def test_several_processes_say_the_same_of_masks(federated: bool) -> None:
    rng = np.random.default_rng(0)
    problem = Problem(images=30, federated=federated)
    content = annotations(rng, problem)
    truth, found = ground_truth(content), detections(rng, problem, content)
    alone = judge(truth, found, "segm")
    with judging(truth, found, "segm", processes=3, at_once=20) as judged:
        time.sleep(1)  # others begin
        together = judged()
    assert len(alone.matches.detection) > 100
    for name, column in vars(alone.matches).items():
        np.testing.assert_array_equal(getattr(together.matches, name), column)


def test_an_annotation_without_a_mask_is_refused_by_any_number_of_processes() -> None:
    rng = np.random.default_rng(0)
    content = annotations(rng, Problem(images=30))
    truth, found = ground_truth(content), detections(rng, Problem(images=30), content)
    truth.segmentations[50:] = [None] * (len(truth.segmentations) - 50)
    for processes in (1, 3):
        with judging(truth, found, "segm", processes=processes, at_once=20) as judged:
            time.sleep(processes / 3)  # others begin
            with pytest.raises(InputError, match="an annotation without a usable mask"):
                judged()
