"""What a method says about boxes and the objects that they show."""

import numpy as np
import pytest

from regionspot_cache.datasets.records import ImageRecord
from regionspot_cache.evaluation.answers import ObjectAnswers, answers_of

BOXES = np.array([[0, 0, 10, 10], [20, 20, 40, 40]], np.float32)
RECORD = ImageRecord(
    image_id=1,
    file_name="a.jpg",
    width=50,
    height=50,
    boxes=BOXES,
    labels=np.array([2, 0], np.int32),
    annotation_ids=np.array([7, 8]),
)


def test_annotated_boxes_show_themselves() -> None:
    probabilities = np.array([[0.3, 0.3, 0.2, 0.2], [0.1, 0.2, 0.3, 0.4]], np.float32)
    found = answers_of(RECORD, BOXES, probabilities, top=3)
    assert found.labels.tolist() == [[0, 1, 2], [3, 2, 1]]  # of equal ones the lower
    np.testing.assert_array_equal(found.probabilities[1], probabilities[1, [3, 2, 1]])
    assert found.met.tolist() == [0, 1]
    assert found.truth.tolist() == [2, 0]
    np.testing.assert_allclose(found.true_probability, [0.2, 0.1])
    assert answers_of(RECORD, BOXES, probabilities, top=5).labels.shape == (2, 4)


def test_of_the_proposals_that_show_an_object_the_best_speaks() -> None:
    boxes = np.array([[0, 0, 10, 9], [0, 0, 10, 10], [0, 0, 40, 40], [20, 20, 40, 39]], np.float32)
    probabilities = np.eye(4, dtype=np.float32)[[1, 2, 3, 3]]
    found = answers_of(
        RECORD,
        boxes,
        probabilities,
        places=np.array([5, 3, 2, 0]),
        objectness=np.full(4, 0.5, np.float32),
        ranks_by=np.array([0.9, 0.8, 1.0, 0.1], np.float32),
        top=1,
    )
    assert found.met.tolist() == [0, 0, -1, 1]
    assert found.truth.tolist() == [2, 2, -1, 0]
    assert np.isnan(found.true_probability).tolist() == [False, False, True, False]
    assert found.iou[2] == pytest.approx(400 / 1600)
    objects = ObjectAnswers(5)
    objects.add(2, found)
    assert objects.said.tolist() == [-1, -1, 1, 3, -1]
    labels = np.array([0, 0, 1, 0, 0], np.int32)
    assert objects.right(labels).tolist() == [False, False, True, False, False]
    assert objects.wrong_probability(labels).tolist() == [0, 0, 0, 1, 0]
    alone = answers_of(RECORD, boxes, probabilities, objectness=np.ones(4, np.float32), top=1)
    first = ObjectAnswers(2)
    first.add(0, alone)
    assert first.said.tolist() == [1, 3]  # of equal ones the first


def test_an_image_without_objects_has_boxes_that_show_nothing() -> None:
    nothing = ImageRecord(**{**vars(RECORD), "boxes": BOXES[:0], "labels": RECORD.labels[:0]})
    found = answers_of(
        nothing, BOXES, np.full((2, 3), 0.2, np.float32), objectness=np.ones(2, np.float32), top=2
    )
    assert found.met.tolist() == found.truth.tolist() == [-1, -1]
    assert found.iou.tolist() == [0, 0]
