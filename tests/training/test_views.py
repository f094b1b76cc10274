"""Training on several views of an image: one of them an epoch, all of them in turn, resumable at any step."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot_cache.errors import IdentityError
from regionspot_cache.training import train
from regionspot_cache.training.order import (
    SampleOrder,
    UsableImages,
    ViewChoice,
    slice_of_rank,
    usable_images,
)
from regionspot_cache.training.setup import RunData
from tests.training.fake import FakeCache, make_config, make_source
from tests.training.test_loop import InterruptedRunError, assert_equal_runs, interrupt_at

PARTS = ("sam", "clip")


def views_cache(images: int = 12, views: int = 3, seed: int = 0, **changes: object) -> FakeCache:
    """Shuffled records; the last view of every fourth image does not exist."""
    random = np.random.default_rng(seed)
    pairs = [(o, v) for o in range(images) for v in range(views) if v == 0 or v < views - 1 or o % 4]
    origins, numbers = np.array(pairs)[random.permutation(len(pairs))].T
    cache = FakeCache(num_images=len(pairs), seed=seed, **changes)
    cache.views, cache.origins = numbers.astype(np.int32), origins.astype(np.int32)
    return cache


def order_of(tables: list[UsableImages], batch: int, seed: tuple[int, ...] = (0,)) -> SampleOrder:
    return SampleOrder(tables, [2] * len(tables), batch, seed=seed)


@given(
    images=st.integers(1, 30),
    views=st.integers(1, 5),
    batch=st.integers(1, 9),
    seed=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_every_image_once_an_epoch_and_every_view_in_turn(
    images: int, views: int, batch: int, seed: int
) -> None:
    cache = views_cache(images, views, seed)
    order = order_of([usable_images(cache, parts=PARTS)], batch, (seed,))
    epochs = 2 * views
    steps = range(-(-epochs * images // batch))
    seen = np.concatenate([order.batch(step)[1] for step in steps])[: epochs * images].reshape(epochs, images)
    for epoch in seen:
        assert sorted(cache.origins[epoch].tolist()) == list(range(images))
    for origin in range(images):
        own = np.flatnonzero(cache.origins == origin)
        shown = [next(i for i in epoch if cache.origins[i] == origin) for epoch in seen]
        for start in range(0, epochs - len(own) + 1, len(own)):
            assert sorted(shown[start : start + len(own)]) == own.tolist()


def test_the_views_of_an_epoch_are_mixed_and_change_with_the_seed() -> None:
    cache = views_cache(300, 3)
    choice = ViewChoice.among(cache.origins)
    for epoch in range(4):
        shown = np.bincount(cache.views[choice.mask(5, epoch)])
        assert (shown > 60).all()
    assert (choice.mask(5, 0) != choice.mask(6, 0)).mean() > 0.3
    assert (choice.mask(5, 0) != choice.mask(5, 1)).mean() > 0.3


def test_any_step_alone_and_for_any_number_of_processes() -> None:
    tables = [usable_images(views_cache(seed=seed), parts=PARTS) for seed in range(2)]
    forward = [order_of(tables, 6).batch(step) for step in range(30)]
    for step in reversed(range(30)):
        source, images = order_of(tables, 6).batch(step)
        assert source == forward[step][0]
        np.testing.assert_array_equal(images, forward[step][1])
        shares = [slice_of_rank(images, rank, 4) for rank in range(4)]
        np.testing.assert_array_equal(np.concatenate(shares), images)
    assert order_of(tables, 6).epoch_of(8) == pytest.approx(2.0)


def test_views_that_failed_are_not_drawn_and_their_images_stay() -> None:
    cache = views_cache(6, 2)
    lost = int(np.flatnonzero((cache.origins == 3) & (cache.views == 1))[0])
    cache.bad["clip"] = {lost}
    usable = usable_images(cache, parts=PARTS)
    assert usable.left_out == {"without clip": 1}
    assert usable.per_epoch == 6
    order = order_of([usable], 6)
    for epoch in range(4):
        images = order.batch(epoch)[1]
        assert lost not in images
        assert sorted(cache.origins[images].tolist()) == list(range(6))


def test_only_images_as_they_are() -> None:
    cache = views_cache()
    usable = usable_images(cache, parts=PARTS, views="original")
    assert usable.views is None
    assert sorted(cache.origins[usable.images].tolist()) == list(range(12))
    assert (cache.views[usable.images] == 0).all()
    assert usable.left_out["extra views"] == cache.num_images - 12
    assert usable_images(FakeCache(), parts=PARTS, views="original").left_out == {}


def test_a_cache_without_extra_views_keeps_its_order() -> None:
    """The choice of views must not move what runs without them have always drawn."""
    usable = usable_images(FakeCache(), parts=PARTS)
    assert usable.views is None
    order = order_of([usable], 6)
    assert order.batch(0)[1].tolist() == PINNED


PINNED = [23, 14, 11, 21, 12, 22]


def test_a_window_holds_as_many_maps_as_without_views() -> None:
    config = make_config(window_bytes=5 * 5 * 8 * 2)  # two partitions of five maps
    plain, views = make_source("plain"), make_source("views", views_cache(24, 4))
    data = RunData.prepare([plain, views], config, torch.device("cpu"))
    windows = [data._window(s, u) for s, u in zip(data.sources, data.usable, strict=True)]
    assert windows[0] == 2
    assert windows[1] > 4


@pytest.mark.parametrize("stop", [3, 8])
def test_a_resumed_run_equals_an_undisturbed_one(tmp_path: Path, stop: int) -> None:
    sources = [make_source("views", views_cache()), make_source("plain", FakeCache(seed=1))]
    config = make_config(checkpoint_seconds=0.0, log_every=3)
    train(sources, config, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        train(sources, config, tmp_path / "parts", on_step=interrupt_at(stop))
    assert 0 < train(sources, config, tmp_path / "parts").resumed_from < 12
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    train(sources, make_config(log_every=3, memory_bytes=0), tmp_path / "streamed")
    assert_equal_runs(tmp_path / "whole", tmp_path / "streamed")


def test_a_run_on_other_views_is_another_run(tmp_path: Path) -> None:
    cache = views_cache()
    cache.augmentation = {"flip": True, "seed": 0}
    train([make_source(cache=cache)], make_config(), tmp_path)
    cache.augmentation = {"flip": True, "seed": 1}
    with pytest.raises(IdentityError, match=r"augmentation\.seed"):
        train([make_source(cache=cache)], make_config(), tmp_path)
    cache.augmentation = {"flip": True, "seed": 0}
    with pytest.raises(IdentityError, match="views"):
        train([make_source(cache=cache)], make_config(views="original"), tmp_path)
