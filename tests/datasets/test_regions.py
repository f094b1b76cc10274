"""The box policy, overlap and conversions."""

import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from regionspot_cache.datasets.regions import (
    BoxPolicy,
    box_area,
    box_iou,
    clean_boxes,
    xyxy_to_xywh,
)

WIDTH, HEIGHT = 64, 48
coordinates = st.one_of(
    st.integers(-20, 90).map(float),
    st.floats(-100, 200, width=32),
    st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e300, 0.0, 64.0, 48.0]),
)
box_lists = st.lists(st.tuples(*[coordinates] * 4), max_size=12)


def arrays(boxes: list[tuple[float, ...]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(boxes, np.float64).reshape(-1, 4), np.arange(len(boxes)) % 2


@given(box_lists, st.lists(st.booleans(), min_size=12, max_size=12))
def test_boxes_kept_lie_inside_in_their_old_order_and_every_other_is_counted_once(
    boxes: list[tuple[float, ...]], crowd: list[bool]
) -> None:
    given_boxes, labels = arrays(boxes)
    clean = clean_boxes(given_boxes, labels, width=WIDTH, height=HEIGHT, crowd=crowd[: len(boxes)])
    assert len(clean.kept) + clean.dropped.total() == len(boxes)
    assert (np.diff(clean.kept) > 0).all()
    assert np.isfinite(clean.boxes).all()
    assert (clean.boxes >= 0).all()
    assert (clean.boxes[:, 2:] <= (WIDTH, HEIGHT)).all()
    assert (clean.boxes[:, 2:] - clean.boxes[:, :2] >= 1).all()
    left = zip(clean.boxes.tolist(), labels[clean.kept], strict=True)
    assert len({(*box, label) for box, label in left}) == len(clean.kept)


@given(box_lists)
def test_cleaning_twice_changes_nothing(boxes: list[tuple[float, ...]]) -> None:
    given_boxes, labels = arrays(boxes)
    once = clean_boxes(given_boxes, labels, width=WIDTH, height=HEIGHT)
    twice = clean_boxes(once.boxes, labels[once.kept], width=WIDTH, height=HEIGHT)
    np.testing.assert_array_equal(twice.boxes, once.boxes)
    assert not twice.dropped


@given(st.lists(box_lists, min_size=1, max_size=4))
def test_many_images_at_once_equal_one_by_one(images: list[list[tuple[float, ...]]]) -> None:
    sizes = [(WIDTH - 7 * i, HEIGHT + 5 * i) for i in range(len(images))]
    one_by_one = [
        clean_boxes(*arrays(boxes), width=width, height=height)
        for boxes, (width, height) in zip(images, sizes, strict=True)
    ]
    index = np.repeat(np.arange(len(images)), [len(boxes) for boxes in images])
    together = clean_boxes(
        np.concatenate([arrays(boxes)[0] for boxes in images]),
        np.concatenate([arrays(boxes)[1] for boxes in images]),
        width=np.array(sizes)[index, 0],
        height=np.array(sizes)[index, 1],
        images=index,
    )
    np.testing.assert_array_equal(together.boxes, np.concatenate([clean.boxes for clean in one_by_one]))
    assert together.dropped == sum((clean.dropped for clean in one_by_one[1:]), one_by_one[0].dropped)


def test_each_reason_is_counted_and_the_first_that_holds_wins() -> None:
    boxes = [
        [0, 0, 10, 10],
        [0, 0, 10, 10],  # duplicate
        [0, 0, 10, 10],  # same box, other label: kept
        [np.nan, 0, 5, 5],
        [64, 0, 70, 5],  # begins where the image ends
        [5, 5, 5, 9],  # no width
        [63.5, 0, 80, 20],  # half a pixel is left after clipping
        [-5, -5, 100, 100],  # clipped to the image
        [np.nan, 0, 5, 5],  # crowd comes before non-finite
    ]
    clean = clean_boxes(
        boxes,
        [1, 1, 2, 1, 1, 1, 1, 1, 1],
        width=WIDTH,
        height=HEIGHT,
        crowd=[False] * 8 + [True],
    )
    assert clean.kept.tolist() == [0, 2, 7]
    assert clean.boxes[2].tolist() == [0, 0, WIDTH, HEIGHT]
    assert clean.dropped == {
        "crowd": 1,
        "non-finite box": 1,
        "outside image": 1,
        "too small": 2,
        "duplicate box": 1,
    }


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (BoxPolicy(drop_crowd=False), [0, 2]),
        (BoxPolicy(deduplicate=False), [0, 1]),
        (BoxPolicy(min_size=11), []),
        (BoxPolicy(clip=False, drop_crowd=False, deduplicate=False, min_size=0), [0, 1, 2]),
    ],
)
def test_each_rule_can_be_changed(policy: BoxPolicy, kept: list[int]) -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 10, 10], [60, 40, 68, 50]]
    clean = clean_boxes(
        boxes, [0, 0, 0], width=WIDTH, height=HEIGHT, crowd=[False, False, True], policy=policy
    )
    assert clean.kept.tolist() == kept
    if not policy.clip:
        assert clean.boxes[2].tolist() == boxes[2]


def test_no_boxes_stay_no_boxes() -> None:
    clean = clean_boxes([], [], width=5, height=5)
    assert clean.boxes.shape == (0, 4)
    assert clean.boxes.dtype == np.float32


valid_boxes = hnp.arrays(np.float32, (5, 4), elements=st.floats(0, 100, width=32)).map(
    lambda a: np.concatenate([a[:, :2], a[:, :2] + a[:, 2:] + 1], axis=1)
)


@given(valid_boxes, valid_boxes)
def test_overlap_equals_pycocotools(a: np.ndarray, b: np.ndarray) -> None:
    expected = pycocotools.mask.iou(
        xyxy_to_xywh(a).astype(float), xyxy_to_xywh(b).astype(float), [0] * len(b)
    )
    np.testing.assert_allclose(box_iou(a, b), expected, atol=2e-5)


def test_overlap_of_empty_boxes_is_zero_and_of_a_box_with_itself_one() -> None:
    boxes = np.array([[3, 3, 3, 3], [0, 0, 7, 5]])
    np.testing.assert_array_equal(box_iou(boxes, boxes), [[0, 0], [0, 1]])
    assert box_iou(boxes, np.zeros((0, 4))).shape == (2, 0)
    np.testing.assert_array_equal(box_area([[0, 0, 7, 5], [9, 9, 4, 4]]), [35, 0])


@given(valid_boxes)
def test_width_and_height_lead_back_to_corners(boxes: np.ndarray) -> None:
    left_top, sides = np.split(xyxy_to_xywh(boxes), 2, axis=1)
    np.testing.assert_allclose(np.concatenate([left_top, left_top + sides], axis=1), boxes, atol=1e-4)
