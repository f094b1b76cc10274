"""Views of images: boxes and pixels move together, and everything is a function of seed, image and view."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regionspot_cache.datasets.augmentation import Augmentation, image_keys, to_view, view_of, view_sizes
from regionspot_cache.errors import UsageError
from regionspot_cache.hashing import random64, uniform

BOTH = Augmentation(flip=True, crops=2, min_scale=0.4, seed=3)
SIDES = st.integers(2, 300)


def frames_of(augmentation: Augmentation, view: int, sizes: list[tuple[int, int]]) -> np.ndarray:
    keys = image_keys(range(len(sizes)), augmentation.seed)
    return augmentation.frames(view, np.array(sizes, np.int32), keys)


def boxes_in(width: int, height: int, count: int = 6, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    x = np.sort(random.uniform(0, width, (count, 2)), axis=1)
    y = np.sort(random.uniform(0, height, (count, 2)), axis=1)
    return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(np.float32)


def test_views_have_numbers_and_names() -> None:
    assert BOTH.num_views == 4
    assert BOTH.names == ("original", "flip", "crop 1", "crop 2")
    assert Augmentation(crops=1).names == ("original", "crop 1")
    assert Augmentation().num_views == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"crops": -1},
        {"crops": 201},
        {"min_scale": 0.0},
        {"min_scale": 1.5},
        {"flip": True, "jitter": 0.5},
        {"jitter": -0.1},
        {"jitter": 0.1},
        {"seed": -1},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict) -> None:
    with pytest.raises(UsageError):
        Augmentation(**wrong)


@given(SIDES, SIDES, st.integers(0, 50))
def test_a_box_holds_the_same_pixels_in_every_view(width: int, height: int, seed: int) -> None:
    """Every pixel names its place; a box of one pixel finds the same one, mirrored or not."""
    places = np.stack(np.broadcast_arrays(*np.ogrid[:height, :width], 0), axis=2)
    image = np.concatenate([places[..., :2] % 256, places[..., :1] // 256], axis=2).astype(np.uint8)
    random = np.random.default_rng(seed)
    augmentation = Augmentation(flip=True, crops=2, seed=seed)
    for view in range(4):
        frame = frames_of(augmentation, view, [(width, height)])
        (w, h), pixels = view_sizes(frame)[0], view_of(image, frame[0])
        assert pixels.shape == (h, w, 3)
        assert pixels.flags.c_contiguous
        left, top, right, bottom = frame[0, 2:]
        x0 = random.integers(min(left, right), max(left, right))
        y0 = random.integers(top, bottom)
        box = np.array([[x0, y0, x0 + 1, y0 + 1]], np.float32)
        (mx0, my0, mx1, my1) = to_view(box, frame)[0].astype(int)
        assert (mx1 - mx0, my1 - my0) == (1, 1)
        np.testing.assert_array_equal(pixels[my0, mx0], image[y0, x0])


@given(SIDES, SIDES, st.integers(0, 50))
def test_moving_back_gives_the_boxes(width: int, height: int, seed: int) -> None:
    boxes = boxes_in(width, height, seed=seed)
    flip = np.repeat(frames_of(BOTH, 1, [(width, height)]), len(boxes), axis=0)
    mirrored = to_view(boxes, flip)
    np.testing.assert_allclose(mirrored[:, 0], width - boxes[:, 2], atol=1e-4)
    np.testing.assert_allclose(to_view(mirrored, flip), boxes, atol=1e-4)
    crop = np.repeat(frames_of(BOTH, 2, [(width, height)]), len(boxes), axis=0)
    back = crop.copy()
    back[:, 2:4], back[:, 4:] = -crop[:, 2:4], -crop[:, 2:4] + crop[:, :2]
    np.testing.assert_allclose(to_view(to_view(boxes, crop), back), boxes, atol=1e-4)


@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=20), st.floats(0.05, 1.0), st.integers(0, 9))
def test_crops_lie_in_the_image_and_are_large_enough(
    sizes: list[tuple[int, int]], min_scale: float, seed: int
) -> None:
    frames = frames_of(Augmentation(crops=1, min_scale=min_scale, seed=seed), 1, sizes)
    assert (frames[:, 2:4] >= 0).all()
    assert (frames[:, 4:] <= frames[:, :2]).all()
    cut = view_sizes(frames)
    assert (cut >= np.maximum(np.floor(np.array(sizes) * min_scale), 1)).all()
    np.testing.assert_array_equal(
        frames, frames_of(Augmentation(crops=1, min_scale=min_scale, seed=seed), 1, sizes)
    )


def test_crops_differ_by_image_view_and_seed_but_not_by_company() -> None:
    sizes = np.full((50, 2), 400, np.int32)
    keys = image_keys(range(50), 3)
    one, two = BOTH.frames(2, sizes, keys), BOTH.frames(3, sizes, keys)
    assert len(np.unique(one, axis=0)) > 45
    assert (one != two).any(axis=1).mean() > 0.9
    assert (BOTH.frames(2, sizes, image_keys(range(50), 4)) != one).any(axis=1).mean() > 0.9
    np.testing.assert_array_equal(BOTH.frames(2, sizes[7:8], keys[7:8]), one[7:8])
    shares = view_sizes(one)[:, 0] / 400
    assert 0.4 <= shares.min() < 0.5
    assert 0.9 < shares.max() <= 1


def test_crops_and_draws_are_pinned_for_ever() -> None:
    frames = frames_of(BOTH, 2, [(640, 480), (333, 500)])
    assert frames.tolist() == PINNED
    assert random64(7, [0, 1]).tolist() == [7191089600892374487, 309689372594955804]
    draws = uniform(1, np.arange(20_000))
    assert 0 <= draws.min() < 0.001 < 0.999 < draws.max() < 1
    assert draws.mean() == pytest.approx(0.5, abs=0.01)


PINNED = [[640, 480, 45, 40, 588, 447], [333, 500, 5, 118, 255, 494]]


@given(SIDES, SIDES, st.floats(0.01, 0.49), st.integers(0, 20))
def test_jittered_boxes_stay_boxes_in_the_frame_and_near(
    width: int, height: int, jitter: float, seed: int
) -> None:
    augmentation = Augmentation(flip=True, jitter=jitter, seed=seed)
    boxes = boxes_in(width, height, 12, seed)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 0.01)  # some are too small to move
    boxes = np.minimum(boxes, np.array([width, height] * 2, np.float32))
    sizes, keys = np.tile(np.int32([width, height]), (12, 1)), np.repeat(image_keys(["a"], seed), 12)
    moved = augmentation.jittered(boxes, sizes, keys, 1, np.arange(12), 1.0)
    assert moved.dtype == np.float32
    assert (moved >= 0).all()
    assert (moved <= np.tile(sizes, 2)).all()
    assert (moved[:, 2:] >= moved[:, :2]).all()
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    assert (np.abs(moved - boxes) <= jitter * sides + 1e-3).all()
    large = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) > 1 / (1 - 2 * jitter)
    assert ((moved != boxes).any(axis=1) >= large).all()
    again = augmentation.jittered(boxes[5:], sizes[5:], keys[5:], 1, np.arange(5, 12), 1.0)
    np.testing.assert_array_equal(again, moved[5:])
