"""Detections by RegionCLIP's protocol against torchvision's suppression."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from regionspot_cache.evaluation import DetectionProtocol, regionclip_protocol, select_top_k
from regionspot_cache.evaluation.protocols import select_detections
from tests.backbones.small import random_boxes


def by_torchvision(
    boxes: np.ndarray, scores: np.ndarray, protocol: DetectionProtocol
) -> list[tuple[int, int, float]]:
    box, label = np.nonzero(scores > np.float32(protocol.threshold))
    flat = torch.from_numpy(scores[box, label])
    corners = torch.from_numpy(boxes[box])
    kept = batched_nms(corners, flat, torch.from_numpy(label), protocol.nms)[: protocol.top_k]
    return [(int(box[i]), int(label[i]), float(flat[i])) for i in kept]


@given(st.integers(0, 10**6), st.integers(0, 30), st.integers(1, 6), st.sampled_from([3, 20, 300]))
def test_equals_threshold_suppression_and_the_best(seed: int, count: int, classes: int, top_k: int) -> None:
    """Boxes crowd in one corner, so that many overlap."""
    rng = np.random.default_rng(seed)
    boxes = random_boxes(count, 100, 100, seed)
    probabilities = rng.dirichlet(np.full(classes, 0.3), count).astype(np.float32)
    objectness = rng.random(count).astype(np.float32)
    protocol = DetectionProtocol(threshold=0.2, nms=0.3, top_k=top_k)
    chosen = select_detections(boxes, probabilities, objectness, "geometric", protocol)
    scores = np.sqrt(probabilities * objectness[:, None])
    expected = by_torchvision(boxes, scores, protocol)
    assert list(zip(*(column.tolist() for column in chosen), strict=True)) == expected


def test_boxes_of_one_class_suppress_each_other_alone() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5]], np.float32)  # IoU .9, .5, .56
    probabilities = np.array([[0.6, 0.1], [0.7, 0.2], [0.5, 0.3]], np.float32)
    protocol = DetectionProtocol(threshold=0.15, nms=0.5)
    chosen = select_detections(boxes, probabilities, None, "geometric", protocol)
    assert chosen.box_index.tolist() == [1, 2]
    assert chosen.class_index.tolist() == [0, 1]
    np.testing.assert_array_equal(chosen.scores, np.array([0.7, 0.3], np.float32))
    loose = DetectionProtocol(threshold=0.15, nms=0.9)  # an IoU of 0.9 is not above it
    assert len(select_detections(boxes, probabilities, None, "product", loose).scores) == 5


def test_without_threshold_and_suppression_the_best_pairs_count() -> None:
    rng = np.random.default_rng(0)
    probabilities, objectness = rng.random((6, 5), np.float32), rng.random(6, np.float32)
    boxes = random_boxes(6, 50, 50)
    for rule in ("product", "official", "rc-compat"):
        found = select_detections(boxes, probabilities, objectness, rule, DetectionProtocol(top_k=7))
        expected = select_top_k(probabilities, objectness, rule, k=7)
        for column, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(column, other)


def test_raw_logits_that_are_negative_give_no_detection() -> None:
    boxes = random_boxes(2, 50, 50)
    protocol = DetectionProtocol(threshold=None, nms=0.5)
    chosen = select_detections(
        boxes, np.ones((2, 1), np.float32), np.array([0.9, 0.4]), "rc-compat", protocol
    )
    assert chosen.box_index.tolist() == [0]
    np.testing.assert_allclose(chosen.scores, [np.log(9) ** 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("metric", "given_boxes", "text"),
    [
        ("LVIS", True, "regionclip (score > 0.0001, NMS 0.5 in each class, best 300)"),
        ("LVIS", False, "regionclip (score > 0.02, NMS 0.5 in each class, best 300)"),
        ("COCO", True, "regionclip (score > 0.001, NMS 0.5 in each class, best 100)"),
        ("COCO", False, "regionclip (score > 0.001, NMS 0.5 in each class, best 100)"),
    ],
)
def test_published_protocols(metric: str, given_boxes: bool, text: str) -> None:
    assert str(regionclip_protocol(metric, given=given_boxes)) == text
    assert str(DetectionProtocol()) == "shared (every box with every class)"
