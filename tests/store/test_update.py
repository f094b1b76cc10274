"""Updates by library calls: what is new is computed, what is gone is given up, nothing else is touched."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.datasets import DetectionDataset, with_views
from regionspot_cache.datasets.augmentation import Augmentation
from regionspot_cache.datasets.regions import BoxPolicy
from regionspot_cache.datasets.source import DatasetSource
from regionspot_cache.errors import IncompleteError
from regionspot_cache.store import create_cache, open_cache, open_writer, verify
from regionspot_cache.store.reader import open_as_it_is
from regionspot_cache.store.segments import UpdateRecord
from regionspot_cache.store.update import abandon_update, begin_update, finish_update, plan_update
from tests.store.small_world import (
    clip_part,
    extract,
    file_hashes,
    make_cache,
    make_dataset,
    map_of,
    open_labelled,
    sam_part,
    tokens_of,
)
from tests.store.updating import begin, bring_up_to_date, make_stamped, with_files

ALL = make_dataset(30)
OLD = ALL.select(np.arange(23))


def without(data: DetectionDataset, *images: int) -> DetectionDataset:
    return data.select(np.setdiff1d(np.arange(len(data)), images))


def shifted(data: DetectionDataset, *images: int, by: float = 1.5) -> DetectionDataset:
    """The same images, of which some have other boxes."""
    boxes = data.boxes.copy()
    for i in images:
        assert data.offsets[i] < data.offsets[i + 1]
        boxes[data.offsets[i]] += np.float32(by)
    return replace(data, boxes=boxes)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    make_cache(tmp_path / "c", OLD)
    return tmp_path / "c"


def check(path: Path, dataset: DetectionDataset) -> None:
    """The cache is whole and has exactly the images and boxes of the dataset, each with its own features."""
    assert verify(path, "full") == []
    labelled = open_labelled(path, dataset)
    cache = labelled.cache
    assert labelled.left_out == {}
    assert sorted(cache.file_names[i] for i in np.flatnonzero(cache.live)) == sorted(dataset.file_names)
    records = {record.file_name: record for record in dataset}
    for i in np.flatnonzero(cache.live).tolist():
        image_id, name = cache.image(i)
        assert image_id == records[name].image_id
        assert cache.size(i) == (records[name].width, records[name].height)
        np.testing.assert_array_equal(cache.boxes(i), records[name].boxes)
        np.testing.assert_array_equal(labelled.labels(i), records[name].labels[labelled.rows(i)])
        np.testing.assert_allclose(cache.read("clip/map", i), map_of(name), atol=0.02)
        made = tokens_of(name, records[name].boxes, 8)
        np.testing.assert_allclose(cache.read("sam/transformer", i), made, atol=0.02)
    assert plan_update(path, dataset).is_empty


def test_new_images_are_appended_and_nothing_else_is_written(cache: Path) -> None:
    before = file_hashes(cache)
    positions = open_cache(cache).file_names
    update = bring_up_to_date(cache, ALL)
    assert np.flatnonzero(update.redone).tolist() == list(range(23, 30))
    assert not update.removed.any()
    after = file_hashes(cache)
    assert {name: after[name] for name in before} == before
    new = set(after) - set(before)
    (folder,) = (cache / "updates").iterdir()
    assert {n for n in new if not n.startswith(f"updates/{folder.name}/")} == {"segments.json"}
    assert open_cache(cache).file_names[:23] == positions
    check(cache, ALL)


def test_changed_boxes_are_done_again_and_no_others(cache: Path) -> None:
    before, data = file_hashes(cache), shifted(OLD, 3, 8, 11)
    update = bring_up_to_date(cache, data)
    assert np.flatnonzero(update.redone).tolist() == [3, 8, 11]
    found = open_cache(cache)
    assert found.num_partitions == 7
    gone = {found.image(i)[1] for i in np.flatnonzero(~found.live[:23])}
    assert gone == {data.file_names[i] for i in (3, 8, 11)}
    assert not found.ok_mask("sam")[:23][~found.live[:23]].any()
    assert {name: file_hashes(cache)[name] for name in before} == before
    check(cache, data)


def test_removed_images_are_given_up_without_a_new_segment(cache: Path) -> None:
    before, data = file_hashes(cache), without(OLD, 0, 5, 22)
    update = bring_up_to_date(cache, data)
    assert update.added is None
    assert update.removed.sum() == 3
    after = file_hashes(cache)
    assert set(after) - set(before) == {"segments.json"}
    assert {name: after[name] for name in before} == before
    assert open_cache(cache).live.sum() == 20
    check(cache, data)


def test_all_at_once(cache: Path) -> None:
    data = without(shifted(ALL, 3, 8), 0, 5)
    update = bring_up_to_date(cache, data)
    assert (update.redone.sum(), update.removed.sum()) == (9, 4)
    check(cache, data)


def test_a_box_that_was_removed_needs_nothing(cache: Path) -> None:
    keep = np.ones(len(OLD.boxes), bool)
    keep[OLD.offsets[3]] = False
    data = replace(
        OLD,
        boxes=OLD.boxes[keep],
        labels=OLD.labels[keep],
        annotation_ids=OLD.annotation_ids[keep],
        crowd=OLD.crowd[keep],
        offsets=OLD.offsets - (np.arange(24) > 3),
    )
    assert plan_update(cache, data).is_empty


@pytest.mark.parametrize(
    "other",
    [
        replace(OLD, labels=(OLD.labels + 1) % 3, class_names=("a", "b", "c")),
        OLD.select(np.arange(23)[::-1]),
        replace(OLD, annotation_ids=OLD.annotation_ids + 5, image_root=Path("elsewhere")),
    ],
)
def test_labels_ids_and_order_need_no_update(cache: Path, other: DetectionDataset) -> None:
    before = file_hashes(cache)
    assert bring_up_to_date(cache, other).is_empty
    assert file_hashes(cache) == before


def test_update_after_update(cache: Path) -> None:
    """Also back to what was: images and boxes that were given up are made again."""
    for data in (ALL, shifted(ALL, 3, 25), OLD, shifted(ALL, 3, 25), ALL, without(ALL, 1), ALL, OLD, ALL):
        bring_up_to_date(cache, data)
        check(cache, data)


def test_the_source_of_the_latest_annotations_is_kept(cache: Path) -> None:
    source = DatasetSource(dataset="/x.json", data_root="/data", seed=3, policy=BoxPolicy(min_size=2))
    assert open_cache(cache).source is None
    bring_up_to_date(cache, replace(ALL, source=source))
    assert open_cache(cache).source == source


# Files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def stamped(tmp_path: Path) -> tuple[Path, DetectionDataset]:
    """A cache with the stamps of files that are there."""
    data = with_files(OLD, tmp_path / "images")
    make_stamped(tmp_path / "c", data)
    return tmp_path / "c", data


def redone(path: Path, data: DetectionDataset) -> list[int]:
    return np.flatnonzero(plan_update(path, data).redone).tolist()


def test_pictures_that_changed_are_done_again_every_time(stamped: tuple[Path, DetectionDataset]) -> None:
    path, data = stamped
    assert redone(path, data) == []
    for text in ("longer than it was before", "as long as before, differs"):
        (data.image_root / data.file_names[4]).write_text(text)
        assert redone(path, data) == [4]
        bring_up_to_date(path, data)
        check(path, data)
    cache = open_cache(path)
    (i,) = (i for i in np.flatnonzero(cache.live) if cache.image(i)[1] == data.file_names[4])
    assert cache.stamps("clip")[i, 0] == len("as long as before, differs")


def test_a_picture_that_changed_and_kept_its_length(stamped: tuple[Path, DetectionDataset]) -> None:
    path, data = stamped
    file = data.image_root / data.file_names[4]
    file.write_text(file.read_text()[::-1])
    os.utime(file, ns=(1, 1))
    assert redone(path, data) == [4]


def test_a_picture_that_was_only_copied_is_the_same(stamped: tuple[Path, DetectionDataset]) -> None:
    path, data = stamped
    for name in data.file_names:
        os.utime(data.image_root / name, ns=(1, 1))
    assert redone(path, data) == []


def test_a_picture_that_is_missing_has_not_changed(stamped: tuple[Path, DetectionDataset]) -> None:
    path, data = stamped
    (data.image_root / data.file_names[4]).unlink()
    assert redone(path, data) == []
    assert redone(path, replace(data, image_root=Path("nowhere"))) == []


def test_without_stamps_no_picture_has_changed(tmp_path: Path) -> None:
    data = with_files(OLD, tmp_path / "images")
    writer = create_cache(tmp_path / "c", data, parts=[sam_part(), clip_part()], partition_size=4)
    for part in writer.parts:
        for p in writer.pending(part):
            plan = writer.partition(p)
            arrays = {a.name: np.zeros(shape_of(a, plan), np.float32) for a in writer.parts[part].arrays}
            writer.commit(part, p, arrays, np.ones(plan.num_images, np.uint8))
    writer.seal()
    assert not open_cache(tmp_path / "c").stamps("sam").any()
    (data.image_root / data.file_names[4]).write_text("another")
    assert redone(tmp_path / "c", data) == []


def shape_of(array, plan) -> tuple[int, ...]:
    return (plan.num_boxes if array.ragged else plan.num_images, *array.item_shape)


# Unfinished updates ---------------------------------------------------------------------------------------


def test_readers_are_refused_until_an_update_is_finished(cache: Path) -> None:
    update, writer, name = begin(cache, ALL)
    for _ in range(2):
        with pytest.raises(IncompleteError, match=r"an update of .* is not finished\n.*\n.*--update"):
            open_cache(cache)
        problems = verify(cache, "full")
        assert "update.json" in {problem.key for problem in problems}
        assert not [problem for problem in problems if problem.is_damage]
        assert open_as_it_is(cache, ("clip",)).num_images == 23
        extract(writer)
    finish_update(cache, update, name)
    assert not (cache / "update.json").exists()
    check(cache, ALL)


def test_an_update_that_was_killed_goes_on(cache: Path) -> None:
    _, writer, name = begin(cache, ALL)
    plan = writer.partition(0)
    arrays = {"map": np.ones((plan.num_images, 5, 12), np.float32)}
    writer.commit("clip", 0, arrays, np.ones(plan.num_images, np.uint8))
    update, again, same = begin(cache, ALL)
    assert same == name
    assert again.pending("clip") == [1]
    extract(again)
    finish_update(cache, update, name)
    assert verify(cache, "full") == []
    first = int(open_cache(cache).segment_starts[1])
    np.testing.assert_allclose(open_cache(cache).read("clip/map", first), 1, atol=0.01)


def test_an_update_to_something_else_is_swept(cache: Path) -> None:
    _, writer, abandoned = begin(cache, ALL)
    extract(writer)
    data = shifted(OLD, 3)
    bring_up_to_date(cache, data)
    assert not [file for file in (cache / abandoned).rglob("*") if file.is_file()]
    check(cache, data)


def test_an_update_that_is_no_longer_needed_is_abandoned(cache: Path) -> None:
    _, _, abandoned = begin(cache, ALL)
    assert bring_up_to_date(cache, OLD).is_empty
    assert UpdateRecord.read(open_writer(cache).objects) is None
    assert open_labelled(cache, OLD).left_out == {}
    assert not [problem for problem in verify(cache) if abandoned not in problem.key]


def test_abandoning_nothing_changes_nothing(cache: Path) -> None:
    before = file_hashes(cache)
    abandon_update(cache)
    assert file_hashes(cache) == before


def test_a_cache_that_is_not_complete_is_not_updated(tmp_path: Path) -> None:
    create_cache(tmp_path / "c", OLD, parts=[sam_part()], partition_size=4)
    with pytest.raises(IncompleteError, match="no complete part"):
        plan_update(tmp_path / "c", ALL)


def test_an_update_whose_segment_lacks_a_part_is_not_finished(cache: Path) -> None:
    update, writer, name = begin(cache, ALL)
    extract(writer, parts=("clip",))
    with pytest.raises(IncompleteError, match="no complete part sam"):
        finish_update(cache, update, name)
    assert not (cache / "segments.json").exists()
    with pytest.raises(IncompleteError, match="not finished"):
        open_cache(cache)
    extract(writer)
    finish_update(cache, update, name)
    check(cache, ALL)


def test_a_kill_between_the_new_list_and_the_end_of_an_update(cache: Path) -> None:
    bring_up_to_date(cache, ALL)
    (folder,) = (cache / "updates").iterdir()
    begin_update(cache, f"updates/{folder.name}")  # as if update.json were still there
    assert bring_up_to_date(cache, ALL).is_empty
    check(cache, ALL)


# Views ----------------------------------------------------------------------------------------------------


def test_all_views_of_an_image_are_done_again_together(tmp_path: Path) -> None:
    how = Augmentation(flip=True, crops=1, seed=1)
    old, new = with_views(OLD, how), with_views(shifted(OLD, 3), how)
    path = tmp_path / "c"
    extract(create_cache(path, old, partition_size=4, parts=[sam_part(), clip_part()]))
    update = bring_up_to_date(path, new)
    assert set(new.views.origins[update.redone].tolist()) == {3}
    assert update.redone.sum() == (new.views.origins == 3).sum() > 1
    assert verify(path, "full") == []
    labelled = open_labelled(path, new)
    assert labelled.left_out == {}
    live = labelled.cache.live
    pairs = set(zip(labelled.origins[live].tolist(), labelled.views[live].tolist(), strict=True))
    assert len(pairs) == live.sum() == len(new)
    for origin in set(labelled.origins[live].tolist()):
        names = {labelled.cache.file_names[i] for i in np.flatnonzero(live & (labelled.origins == origin))}
        assert len(names) == 1
