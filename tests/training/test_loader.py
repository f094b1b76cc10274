"""Batches: what they hold, their order, their errors, and that no thread survives."""

import threading
import time

import numpy as np
import pytest
import torch

from regionspot_cache.errors import DamageError, InputError
from regionspot_cache.store import STORAGE, StorageName
from regionspot_cache.training.loader import Batch, SourceReader, make_batch, read_ahead
from tests.training.fake import FakeCache, make_source

IMAGES = np.array([7, 2, 19, 2])


def reader_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("batch-reader")]


def read_batch(cache: FakeCache, *, in_memory: bool = False, **changes: object) -> Batch:
    reader = SourceReader(make_source(cache=cache, **changes), np.arange(cache.num_images))
    if in_memory:
        reader.load(torch.device("cpu"))
        cache.reads.clear()
    return make_batch(3, 0, reader, IMAGES, 8, pin=False)


@pytest.mark.parametrize("dtype", STORAGE)
@pytest.mark.parametrize("in_memory", [True, False])
def test_batch_holds_the_images_boxes_and_maps(dtype: StorageName, in_memory: bool) -> None:
    cache = FakeCache(dtype=dtype)
    batch = read_batch(cache, in_memory=in_memory)
    assert bool(cache.reads) != in_memory
    maps = STORAGE[dtype].decode(*cache.maps)
    for row, image in enumerate(IMAGES):
        count = cache.counts[image]
        assert batch.real[row].tolist() == [True] * count + [False] * (batch.real.shape[1] - count)
        assert np.array_equal(batch.tokens[row, :count], cache.tokens[image])
        assert (batch.tokens[row, count:] == 0).all()
        assert np.array_equal(batch.feature_map()[row], maps[image])
    flat = batch.tokens.flatten(0, 1)[batch.places]
    assert np.array_equal(flat, np.concatenate([cache.tokens[i] for i in IMAGES]))
    assert batch.labels.tolist() == np.concatenate([cache.labels(i) for i in IMAGES]).tolist()
    assert batch.weights.sum().item() == pytest.approx(len(IMAGES) / 8)


def test_labels_are_rows_of_the_sources_own_text() -> None:
    cache = FakeCache()
    batch = read_batch(cache, class_map=np.array([3, 2, 1, 0]))
    assert batch.labels.tolist() == [3 - label for i in IMAGES for label in cache.labels(i)]


def test_moving_a_batch_keeps_its_values() -> None:
    batch = read_batch(FakeCache())
    moved = batch.to(torch.device("cpu"))
    assert (moved.step, moved.source) == (3, 0)
    assert torch.equal(moved.feature_map(), batch.feature_map())


def test_read_ahead_keeps_the_order_and_its_bound() -> None:
    batch = read_batch(FakeCache())
    made: list[int] = []

    def make(step: int) -> Batch:
        time.sleep(0.003 if step % 2 else 0)  # later steps overtake earlier ones
        made.append(step)
        return Batch(**{**vars(batch), "step": step})

    with read_ahead(make, range(5, 25), threads=3, ahead=4) as batches:
        for done, item in enumerate(batches):
            assert item.step == 5 + done
            assert len(made) <= done + 4
    assert sorted(made) == list(range(5, 25))
    assert not reader_threads()


def test_reading_overlaps_with_the_step() -> None:
    batch, last = read_batch(FakeCache()), 19
    made = [threading.Event() for _ in range(last + 1)]

    def make(step: int) -> Batch:
        made[step].set()
        return batch

    with read_ahead(make, range(last + 1), threads=2, ahead=4) as batches:
        for step, _ in enumerate(batches):
            assert made[min(step + 2, last)].wait(60)


def test_errors_in_threads_name_the_source_and_end_the_threads() -> None:
    cache = FakeCache(unreadable=frozenset({19}))
    reader = SourceReader(make_source("photos", cache), np.arange(24))

    def make(step: int) -> Batch:
        return make_batch(step, 0, reader, IMAGES if step == 3 else IMAGES[:2], 4, pin=False)

    with (
        pytest.raises(InputError, match=r"photos: .* step 3 .*bad sector under image 19"),
        read_ahead(make, range(9), threads=2, ahead=4) as batches,
    ):
        list(batches)
    assert not reader_threads()


def test_the_caches_own_errors_come_through_unchanged() -> None:
    cache = FakeCache()

    def damaged(path: str, images: object) -> None:
        raise DamageError("image 7, partition 1, array clip/map: checksum")

    cache.raw_images = damaged
    with pytest.raises(DamageError, match="partition 1"):
        read_batch(cache)


def test_leaving_early_leaves_no_thread() -> None:
    batch = read_batch(FakeCache())
    with read_ahead(lambda step: batch, range(1000), threads=3, ahead=5) as batches:
        next(iter(batches))
    assert not reader_threads()
