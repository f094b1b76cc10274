"""Boxes in fractions and boxes as two corners are refused; odd boxes among good ones are not."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.datasets.coco_style import read_coco_style
from regionspot_cache.errors import InputError
from tests.datasets.builders import annotation, coco_json, image

RNG = np.random.default_rng(0)
WIDTH, HEIGHT = 640, 480


def xywh(count: int) -> np.ndarray:
    """Boxes in pixels, [count, 4]."""
    size = np.array([WIDTH, HEIGHT])
    side = RNG.uniform(0.02, 0.4, (count, 2)) * size
    return np.concatenate([RNG.uniform(0, 1, (count, 2)) * (size - side), side], axis=1).round(1)


def read(folder: Path, boxes: Sequence[Sequence[float]] | np.ndarray):
    rows = [annotation(n, 1, bbox=[float(v) for v in box]) for n, box in enumerate(boxes)]
    file = coco_json(folder / "x.json", [image(1, "a.jpg", width=WIDTH, height=HEIGHT)], rows)
    return read_coco_style(file, require_images=False)


@pytest.mark.parametrize("odd", [0, 5])
def test_fractions_of_the_image_are_refused(tmp_path: Path, odd: int) -> None:
    boxes = xywh(100) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    boxes[:odd] = [3, 3, 20, 20]
    with pytest.raises(InputError, match="of the boxes lie between 0 and 1; annotation 0 has") as caught:
        read(tmp_path, boxes)
    assert f"{100 - odd}%" in caught.value.found
    assert "640 x 480 pixels" in caught.value.found
    assert "in pixels" in caught.value.expected
    assert "Multiply" in caught.value.remedy


def test_a_single_box_over_the_whole_image_in_fractions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="100% of the boxes lie between 0 and 1"):
        read(tmp_path, [[0, 0, 1, 1]])


def test_tiny_boxes_among_others_are_dropped_and_counted(tmp_path: Path) -> None:
    boxes = xywh(20)
    boxes[:8] = [0.1, 0.2, 0.5, 0.5]
    dataset = read(tmp_path, boxes)
    assert dataset.num_boxes == 12
    assert dataset.dropped == {"too small": 8}


def test_boxes_without_extent_are_no_fractions(tmp_path: Path) -> None:
    assert read(tmp_path, [[0, 0, 0, 0]] * 50 + [[5, 6, 7, 8]]).num_boxes == 1
    assert read(tmp_path, [[0, 0, 0, 0]]).num_boxes == 0


def test_fractions_on_images_of_a_pixel_are_pixels(tmp_path: Path) -> None:
    file = coco_json(
        tmp_path / "x.json", [image(1, "a.jpg", width=1, height=1)], [annotation(1, 1, bbox=(0, 0, 1, 1))]
    )
    assert read_coco_style(file, require_images=False).num_boxes == 1


@pytest.mark.parametrize("count", [20, 500])
def test_corners_in_the_place_of_sizes_are_refused(tmp_path: Path, count: int) -> None:
    boxes = xywh(count)
    boxes[:, 2:] += boxes[:, :2]
    with pytest.raises(InputError, match="would be inside as two corners") as caught:
        read(tmp_path, boxes)
    assert "not [left, top, right, bottom]" in caught.value.expected


def shifted(boxes: np.ndarray) -> np.ndarray:
    boxes[:, :2] += 150  # beyond the border, as amodal boxes are
    return boxes


def beyond_by_a_little(boxes: np.ndarray) -> np.ndarray:
    boxes[:, 2:] = np.array([WIDTH, HEIGHT]) - boxes[:, :2] + 5
    return boxes


@pytest.mark.parametrize("change", [lambda boxes: boxes, shifted, beyond_by_a_little])
@pytest.mark.parametrize("count", [1, 3, 200])
def test_boxes_that_reach_over_the_border_are_cut(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], count: int
) -> None:
    dataset = read(tmp_path, change(xywh(count)))
    assert dataset.num_boxes + dataset.dropped["outside image"] == count
