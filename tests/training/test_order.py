"""The sample order: every image once an epoch, balanced sources, any step alone, any number of processes."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot_cache.errors import InputError
from regionspot_cache.training.order import (
    SampleOrder,
    UsableImages,
    slice_of_rank,
    usable_images,
    window_partitions,
)
from tests.training.fake import FakeCache

PARTS = ("sam", "clip")


def table(images: int, partition: int, seed: int = 0) -> UsableImages:
    """Usable images with gaps, so that partitions differ in length and some are empty."""
    random = np.random.default_rng(seed)
    kept = np.flatnonzero(random.random(images) < 0.7)
    kept = kept if len(kept) else np.array([0])
    starts = np.arange(0, images + partition, partition)
    return UsableImages(images=kept, offsets=np.searchsorted(kept, starts))


def stream(order: SampleOrder, steps: int, source: int = 0) -> np.ndarray:
    return np.concatenate([images for s, images in map(order.batch, range(steps)) if s == source])


@given(
    images=st.integers(1, 60),
    partition=st.integers(1, 12),
    window=st.integers(1, 20),
    batch=st.integers(1, 9),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_every_epoch_visits_every_image_once(
    images: int, partition: int, window: int, batch: int, seed: int
) -> None:
    source = table(images, partition, seed)
    count = len(source.images)
    order = SampleOrder([source], [window], batch, seed=(seed,))
    seen = stream(order, -(-3 * count // batch))
    for epoch in range(3):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == source.images.tolist()


def test_any_step_can_be_asked_alone_and_in_any_order() -> None:
    sources = [table(50, 7, seed) for seed in range(3)]
    order = SampleOrder(sources, [2, 3, 1], 6, seed=(4, 1))
    forward = [order.batch(step) for step in range(40)]
    for step in reversed(range(40)):
        source, images = SampleOrder(sources, [2, 3, 1], 6, seed=(4, 1)).batch(step)
        assert source == forward[step][0]
        assert np.array_equal(images, forward[step][1])


def test_seed_stage_and_epoch_change_the_order() -> None:
    source = table(50, 7)
    orders = [stream(SampleOrder([source], [2], 5, seed=seed), 7) for seed in [(0, 0), (1, 0), (0, 1)]]
    assert all(not np.array_equal(a, b) for a, b in pairwise(orders))
    count = len(source.images)
    long = stream(SampleOrder([source], [2], count, seed=(0,)), 2)
    assert not np.array_equal(long[:count], long[count:])


def test_a_window_holds_only_its_partitions() -> None:
    source = UsableImages(images=np.arange(60), offsets=np.arange(0, 61, 10))
    epoch = stream(SampleOrder([source], [2], 20, seed=(0,)), 3)
    for window in epoch.reshape(3, 20):
        assert len(set(window // 10)) == 2
    shuffled_everywhere = stream(SampleOrder([source], [6], 20, seed=(0,)), 3)
    assert all(len(set(part // 10)) > 3 for part in shuffled_everywhere.reshape(3, 20))


def test_sources_are_equally_likely_whatever_their_size() -> None:
    sources = [table(200, 10), table(12, 10), table(40, 10)]
    order = SampleOrder(sources, [1, 1, 1], 4, seed=(0,))
    chosen = [order.batch(step)[0] for step in range(90)]
    for block in range(30):
        assert sorted(chosen[3 * block : 3 * block + 3]) == [0, 1, 2]
    assert chosen != [0, 1, 2] * 30
    for index, source in enumerate(sources):
        assert set(stream(order, 90, index)) <= set(source.images.tolist())


@given(batch=st.integers(1, 40), world=st.integers(1, 9))
def test_slices_of_the_processes_make_up_the_batch(batch: int, world: int) -> None:
    images = np.arange(batch) * 3
    parts = [slice_of_rank(images, rank, world) for rank in range(world)]
    assert np.array_equal(np.concatenate(parts), images)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_images_without_boxes_or_features_are_left_out_and_counted() -> None:
    cache = FakeCache(num_images=11, empty=frozenset({2, 3}), bad={"sam": {3, 5}, "clip": {0, 5, 10}})
    usable = usable_images(cache, parts=PARTS)
    assert usable.images.tolist() == [1, 4, 6, 7, 8, 9]
    assert usable.left_out == {"without boxes": 2, "without sam": 1, "without clip": 2}
    assert usable_images(cache, parts=("clip",)).left_out == {"without boxes": 2, "without clip": 3}
    assert usable.offsets.tolist() == [0, 2, 6, 6]
    with pytest.raises(InputError, match="2 without boxes"):
        usable_images(FakeCache(num_images=2, empty=frozenset({0, 1})), parts=PARTS)


def test_window_counts_whole_partitions() -> None:
    assert window_partitions(2 * 2**30, 257 * 1024, 512) == 15
    assert window_partitions(1, 257 * 1024, 512) == 1


def test_epochs_are_counted_over_the_sources() -> None:
    source = UsableImages(images=np.arange(20), offsets=np.array([0, 20]))
    assert SampleOrder([source], [1], 5, seed=(0,)).epoch_of(6) == pytest.approx(1.5)
    assert SampleOrder([source, source], [1, 1], 5, seed=(0,)).epoch_of(8) == pytest.approx(1.0)
