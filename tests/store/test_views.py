"""Caches with extra views: the plan says which view a record is; without them nothing changes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.datasets import DetectionDataset, with_views
from regionspot_cache.datasets.augmentation import Augmentation
from regionspot_cache.errors import IdentityError, InputError
from regionspot_cache.store import CachePlan, create_cache, estimate, open_cache, open_writer, verify
from tests.store.small_world import clip_part, extract, make_dataset, open_labelled, sam_part

BOTH = Augmentation(flip=True, crops=1, jitter=0.05, seed=2)
PARTS = [sam_part(), clip_part()]


def plain_dataset(*, text_ids: bool = False) -> DetectionDataset:
    return make_dataset(17, text_ids=text_ids)


def make_views_cache(path: Path, *, text_ids: bool = False) -> DetectionDataset:
    dataset = with_views(plain_dataset(text_ids=text_ids), BOTH)
    extract(create_cache(path, dataset, partition_size=4, parts=PARTS))
    return dataset


@pytest.mark.parametrize("text_ids", [False, True])
def test_every_record_is_the_view_that_was_planned(tmp_path: Path, text_ids: bool) -> None:
    dataset = make_views_cache(tmp_path / "c", text_ids=text_ids)
    cache, plan = open_cache(tmp_path / "c"), CachePlan(dataset, partition_size=4)
    assert len(cache) == len(dataset) > 2 * 17
    assert cache.augmentation == BOTH.to_dict()
    for p in range(cache.num_partitions):
        ours, theirs = cache.partition(p).views, plan.partition(p).views
        for name in ("numbers", "origins", "frames"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
            assert getattr(ours, name).dtype == getattr(dataset.views, name).dtype
    np.testing.assert_array_equal(cache.views, dataset.views.numbers[plan.order])
    np.testing.assert_array_equal(cache.origins, dataset.views.origins[plan.order])
    for i, row in enumerate(plan.order):
        np.testing.assert_array_equal(cache.boxes(i), dataset[int(row)].boxes)
        assert cache.size(i) == (dataset[int(row)].width, dataset[int(row)].height)


@pytest.mark.parametrize("text_ids", [False, True])
def test_every_view_has_the_labels_of_its_own_boxes(tmp_path: Path, text_ids: bool) -> None:
    dataset = make_views_cache(tmp_path / "c", text_ids=text_ids)
    labelled = open_labelled(tmp_path / "c", dataset)
    assert labelled.left_out == {}
    np.testing.assert_array_equal(labelled.views, labelled.cache.views)
    order = CachePlan(dataset, partition_size=4).order
    for i, row in enumerate(order.tolist()):
        np.testing.assert_array_equal(labelled.labels(i), dataset[row].labels)
        np.testing.assert_array_equal(labelled.rows(i), np.arange(len(dataset[row].boxes)))


def test_a_cache_without_views_has_nothing_of_a_dataset_with_them(tmp_path: Path) -> None:
    extract(create_cache(tmp_path / "c", plain_dataset(), partition_size=4, parts=PARTS))
    labelled = open_labelled(tmp_path / "c", with_views(plain_dataset(), BOTH))
    assert (labelled.match.images == -1).all()
    assert labelled.offsets[-1] == 0


def test_without_extra_views_nothing_is_written_of_them(tmp_path: Path) -> None:
    extract(create_cache(tmp_path / "c", plain_dataset(), partition_size=4, parts=PARTS))
    record = json.loads((tmp_path / "c" / "cache.json").read_text())
    assert record["identity"]["augmentation"] is None
    assert record["shape"]["views"] is False
    assert sorted(path.name for path in (tmp_path / "c" / "plan").iterdir() if path.is_dir()) == [
        *("boxes", "offsets", "sizes", "text", "text_offsets")
    ]
    cache = open_cache(tmp_path / "c")
    assert cache.views is None
    assert cache.origins is None
    assert cache.augmentation is None
    assert cache.partition(0).views is None


def test_the_estimate_counts_the_views(tmp_path: Path) -> None:
    dataset = make_views_cache(tmp_path / "c")
    sizes = estimate(CachePlan(dataset, partition_size=4), PARTS)
    stored = {p: sum(f.stat().st_size for f in (tmp_path / "c" / p).glob("c.*")) for p in sizes if "/" in p}
    assert {path: size for path, size in sizes.items() if path != "total"} == stored
    assert {"plan/views", "plan/origins", "plan/frames"} <= set(stored)


@pytest.mark.parametrize(
    ("other", "key"),
    [
        (None, "augmentation"),
        (replace(BOTH, seed=3), "augmentation.seed"),
        (replace(BOTH, jitter=0.1), "augmentation.jitter"),
        (replace(BOTH, crops=2), "augmentation.crops"),
    ],
)
def test_other_views_are_another_cache(tmp_path: Path, other: Augmentation | None, key: str) -> None:
    make_views_cache(tmp_path / "c")
    dataset = with_views(plain_dataset(), other) if other else plain_dataset()
    with pytest.raises(IdentityError, match=f"with {key}"):
        create_cache(tmp_path / "c", dataset, partition_size=4, parts=PARTS)
    assert create_cache(tmp_path / "c", with_views(plain_dataset(), BOTH), partition_size=4, parts=PARTS)


def test_extra_views_of_a_plain_cache_are_another_cache(tmp_path: Path) -> None:
    extract(create_cache(tmp_path / "c", plain_dataset(), partition_size=4, parts=PARTS))
    with pytest.raises(IdentityError, match="with augmentation"):
        create_cache(tmp_path / "c", with_views(plain_dataset(), BOTH), partition_size=4, parts=PARTS)


@pytest.mark.parametrize("name", ["views", "origins", "frames"])
def test_a_changed_view_is_found(tmp_path: Path, name: str) -> None:
    make_views_cache(tmp_path / "c")
    assert verify(tmp_path / "c", "full") == []
    (stored,) = (tmp_path / "c" / "plan" / name).glob("c.*")
    data = bytearray(stored.read_bytes())
    data[1] ^= 1
    stored.write_bytes(data)
    problems = verify(tmp_path / "c", "full")
    assert [(p.array, p.kind) for p in problems if p.key.startswith(f"plan/{name}")] == [(name, "checksum")]


def test_images_that_failed_are_mended_in_all_their_views(tmp_path: Path) -> None:
    dataset = with_views(plain_dataset(), BOTH)
    name = dataset.file_names[int(np.flatnonzero(np.bincount(dataset.views.origins) == 3)[0])]
    writer = create_cache(tmp_path / "c", dataset, partition_size=4, parts=PARTS)
    extract(writer, failing={name: "missing"})
    lost = np.flatnonzero(~open_cache(tmp_path / "c").ok_mask("clip"))
    assert len(lost) == 3
    writer = open_writer(tmp_path / "c")
    for i in lost.tolist():
        part, slot = writer.partition(i // 4), i % 4
        assert part.file_names[slot] == name
        maps = np.zeros((1, 5, 12), np.float32)
        writer.recommit("clip", i // 4, [slot], {"map": maps}, np.ones(1, np.uint8))
    writer.seal()
    assert open_cache(tmp_path / "c").ok_mask("clip").all()
    assert verify(tmp_path / "c", "full") == []


def test_repeated_views_and_views_without_an_original_are_refused() -> None:
    dataset = with_views(plain_dataset(), BOTH)
    repeated = dataset.select(np.array([0, 1, 1]))
    orphan = dataset.select(np.array([0, len(dataset) - 1]))
    for wrong in (repeated, orphan):
        with pytest.raises(InputError, match="views"):
            CachePlan(wrong)


def test_the_digest_of_the_content_sees_the_views() -> None:
    dataset = with_views(plain_dataset(), BOTH)
    digests = {CachePlan(dataset).content_digest()}
    for name in ("numbers", "origins", "frames"):
        changed = replace(dataset, views=dataset.views.take(np.arange(len(dataset))))
        getattr(changed.views, name)[-1] += 1
        plan = CachePlan(dataset)
        plan.dataset, plan.views = changed, changed.views
        digests.add(plan.content_digest())
    assert len(digests) == 4
