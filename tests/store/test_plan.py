"""Cutting a dataset into partitions, and storing that plan."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.errors import InputError
from regionspot_cache.store import CachePlan, create_cache, open_writer
from regionspot_cache.store.plan import shuffled_order
from tests.store.small_world import make_dataset, sam_part


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_order_is_a_permutation_and_a_function(count: int, seed: int) -> None:
    order = shuffled_order(count, seed)
    assert sorted(order.tolist()) == list(range(count))
    np.testing.assert_array_equal(order, shuffled_order(count, seed))


def test_order_is_pinned_for_ever() -> None:
    assert shuffled_order(10, 0).tolist() == PINNED
    assert shuffled_order(10, 1).tolist() != PINNED


PINNED = [2, 4, 6, 8, 5, 1, 7, 0, 9, 3]


def test_order_mixes() -> None:
    order = shuffled_order(20_000, 3)
    assert abs(np.corrcoef(order, np.arange(20_000))[0, 1]) < 0.03


@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 5), st.booleans())
def test_every_image_and_box_is_in_one_partition(images: int, size: int, seed: int, text_ids: bool) -> None:
    data = make_dataset(images, seed=seed, text_ids=text_ids)
    plan = CachePlan(data, partition_size=size, seed=seed)
    where = {name: row for row, name in enumerate(data.file_names)}
    seen = []
    for index in range(plan.num_partitions):
        part = plan.partition(index)
        assert part.num_images == plan.image_counts[index] == plan.shape.partition_images(index)
        assert part.num_boxes == plan.box_counts[index]
        for slot, name in enumerate(part.file_names):
            row = where[name]
            mine = slice(data.offsets[row], data.offsets[row + 1])
            own = slice(part.offsets[slot], part.offsets[slot + 1])
            assert part.image_ids[slot] == data.image_ids[row]
            assert part.sizes[slot].tolist() == [data.widths[row], data.heights[row]]
            np.testing.assert_array_equal(part.boxes[own], data.boxes[mine])
            seen.append(name)
    assert sorted(seen) == sorted(data.file_names)


@pytest.mark.parametrize("text_ids", [False, True])
def test_stored_plan_is_the_plan(tmp_path: Path, text_ids: bool) -> None:
    data = make_dataset(text_ids=text_ids)
    plan = CachePlan(data, partition_size=4, seed=7)
    create_cache(tmp_path / "c", data, partition_size=4, seed=7, parts=[sam_part()])
    writer = open_writer(tmp_path / "c")
    assert writer.num_partitions == plan.num_partitions == 6
    for index in range(plan.num_partitions):
        ours, theirs = writer.partition(index), plan.partition(index)
        for name in (
            "index",
            "image_ids",
            "file_names",
            "sizes",
            "boxes",
            "offsets",
        ):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
            if isinstance(getattr(ours, name), np.ndarray):
                assert getattr(ours, name).dtype == getattr(theirs, name).dtype


def test_empty_datasets_and_bad_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="no images"):
        CachePlan(make_dataset(0))
    with pytest.raises(InputError, match="partition size"):
        CachePlan(make_dataset(), partition_size=0)
    short = make_dataset()
    short = replace(short, widths=short.widths[:-1])
    with pytest.raises(InputError, match="disagree"):
        CachePlan(short)


def digest(data: DetectionDataset) -> str:
    return CachePlan(data).content_digest()


@pytest.mark.parametrize("name", ["widths", "heights", "boxes", "file_names"])
def test_content_digest_sees_what_changes_features(name: str) -> None:
    data = make_dataset()
    before = digest(data)
    getattr(data, name)[-1] += "x" if name == "file_names" else 1
    assert digest(data) != before


def test_content_digest_sees_which_image_a_box_is_of() -> None:
    data = make_dataset()
    moved = data.offsets.copy()
    moved[np.flatnonzero(np.diff(moved))[0] + 1] -= 1
    assert digest(replace(data, offsets=moved)) != digest(data)


def test_content_digest_does_not_see_labels_and_ids() -> None:
    data = make_dataset(text_ids=True)
    other = replace(
        data,
        labels=(data.labels + 1) % 3,
        annotation_ids=data.annotation_ids[::-1],
        image_ids=data.image_ids[::-1],
        class_names=("x", "y", "z"),
    )
    assert digest(other) == digest(data)


def test_planning_is_quick_and_padding_is_not_stored(tmp_path: Path) -> None:
    data = make_dataset(40_000, max_boxes=20)
    started = time.process_time()
    create_cache(tmp_path / "c", data, parts=[sam_part()])
    assert time.process_time() - started < 30  # seconds; measured: 1.2
    stored = sum(file.stat().st_size for file in (tmp_path / "c" / "plan").rglob("c.*"))
    text = sum(len(f"{a}{b}") for a, b in zip(data.image_ids, data.file_names, strict=True))
    needed = len(data.boxes) * 16 + len(data.file_names) * (4 + 8 + 8) + text
    assert stored < 1.4 * needed
