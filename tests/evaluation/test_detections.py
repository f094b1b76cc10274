import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regionspot_cache.errors import InputError
from regionspot_cache.evaluation import Detections, MaskTable, encode_mask


def image(parts: list[Detections], image_id: int, scores: list[float], **more: object) -> None:
    count = len(scores)
    parts.append(
        Detections.of(
            image_id,
            boxes=np.tile([0.0, 0, 10, 10], (2, 1)),
            box_index=np.arange(count) % 2,
            category_ids=np.arange(count),
            scores=np.array(scores, np.float32),
            **more,
        )
    )


def random_masks(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((7, 5 + i % 3)) < rng.random() for i in range(count)]


def coded(masks: list[np.ndarray]) -> MaskTable:
    return MaskTable.from_rles([encode_mask(mask) for mask in masks])


def test_masks_belong_to_boxes() -> None:
    """Six detections of two boxes keep two masks; the mask of an unused box is never asked for."""
    masks = random_masks(2)

    class Second:
        def take(self, boxes: np.ndarray) -> MaskTable:
            assert boxes.tolist() == [1]
            return coded(masks[1:])

    parts = []
    image(parts, 1, [0.1] * 6, masks=coded(masks))
    parts.append(
        Detections.of(
            2,
            boxes=np.arange(8.0).reshape(2, 4),
            box_index=np.array([1]),
            category_ids=np.array([3]),
            scores=np.array([0.5]),
            masks=Second(),
        )
    )
    found = Detections.concatenate(parts)
    assert len(found) == 7
    assert len(found.boxes) == len(found.masks) == 3
    assert found.box_index.tolist() == [0, 1, 0, 1, 0, 1, 2]
    assert found.boxes[2].tolist() == [4, 5, 6, 7]
    assert found.masks.rle(2) == encode_mask(masks[1])


def test_all_boxes_have_masks_or_none() -> None:
    parts = []
    image(parts, 1, [0.5, 0.5], masks=coded(random_masks(2)))
    image(parts, 2, [0.5])
    with pytest.raises(InputError, match="2 masks for 3 boxes"):
        Detections.concatenate(parts)


def test_an_image_comes_once() -> None:
    parts = []
    image(parts, 1, [0.5])
    image(parts, 1, [0.5])
    with pytest.raises(InputError, match="twice"):
        Detections.concatenate(parts)


@given(st.lists(st.lists(st.sampled_from([0.1, 0.2, 0.3]), max_size=8), max_size=5), st.integers(1, 5))
def test_cap_keeps_the_first_best(scores: list[list[float]], cap: int) -> None:
    parts = []
    for image_id, image_scores in enumerate(scores):
        image(parts, image_id, image_scores)
    capped = Detections.concatenate(parts).capped(cap)
    assert isinstance(capped, Detections)
    for i, image_scores in enumerate(scores):
        best = sorted(range(len(image_scores)), key=lambda row: -image_scores[row])[:cap]
        assert capped.category_ids[capped.rows(i)].tolist() == sorted(best)
