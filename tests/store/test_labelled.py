"""Labels are looked up when they are needed: which images and boxes of any annotations a cache has."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from regionspot_cache.datasets import DetectionDataset, with_views
from regionspot_cache.datasets.augmentation import Augmentation
from regionspot_cache.datasets.regions import BOX_QUERY, position_vectors
from regionspot_cache.store import LabelledCache, create_cache, match, open_cache
from regionspot_cache.store.reader import open_as_it_is
from tests.store.small_world import clip_part, extract, make_cache, make_dataset, open_labelled, sam_part

IMAGE, BOX = "image not in the cache", "box not in the cache"


def with_boxes(data: DetectionDataset, boxes: np.ndarray, labels: np.ndarray, owner: np.ndarray):
    """The same images with other boxes; owner[i] is the image of box i."""
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=len(data))
    return replace(
        data,
        boxes=boxes[order].astype(np.float32),
        labels=labels[order].astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        annotation_ids=np.arange(len(order)),
        crowd=np.zeros(len(order), bool),
    )


def owners(data: DetectionDataset) -> np.ndarray:
    return np.repeat(np.arange(len(data)), np.diff(data.offsets))


def check(labelled: LabelledCache) -> int:
    """Every labelled box is a box of this very image in the dataset, with its label; how many there are."""
    cache, seen = labelled.cache, 0
    records = {record.file_name: record for record in labelled.dataset}
    for i in range(cache.num_images):
        boxes, labels, rows = cache.boxes(i), labelled.labels(i), labelled.rows(i)
        assert len(labels) == len(rows)
        if cache.views is not None and cache.views[i]:
            assert not len(labels)
            continue
        record = records.get(cache.image(i)[1])
        if record is None:
            assert not len(labels)
            continue
        known = {box.tobytes() for box in boxes}
        wanted = [
            (box.tobytes(), label)
            for box, label in zip(record.boxes, record.labels.tolist(), strict=True)
            if box.tobytes() in known
        ]
        found = zip(boxes[rows], labels.tolist(), strict=True)
        assert sorted((box.tobytes(), label) for box, label in found) == sorted(wanted)
        seen += len(labels)
    assert seen + labelled.left_out[BOX] == sum(
        len(r.boxes) for r in labelled.dataset if r.file_name in set(cache.file_names)
    )
    return seen


def test_the_annotations_that_a_cache_was_made_from(sealed: Path) -> None:
    labelled = open_labelled(sealed)
    assert check(labelled) == len(make_dataset().boxes)
    assert labelled.left_out == {}
    assert labelled.class_names == ("cat", "dog", "owl")
    assert labelled.boxed_classes.tolist() == [0, 1, 2]
    assert (labelled.num_images, labelled.partition_size, labelled.views) == (23, 4, None)
    assert labelled.ok_mask("sam").sum() == 21


def test_entries_of_one_file_are_told_apart_by_their_boxes(tmp_path: Path) -> None:
    """Two lists of boxes for one picture, and one that is empty, whatever their order in the cache."""
    data = make_dataset()
    names = (data.file_names[0],) * 5 + tuple(data.file_names[5:])
    sizes = {key: np.concatenate([np.repeat(v[:1], 5), v[5:]]) for key, v in _sides(data).items()}
    listed = replace(data, file_names=names, **sizes)
    for seed in range(3):
        writer = create_cache(tmp_path / f"{seed}", listed, parts=[sam_part()], partition_size=4, seed=seed)
        cache = open_as_it_is(tmp_path / f"{seed}", ())
        found = match(listed, cache)
        assert found.fits(listed.offsets).all()
        assert sorted(found.images.tolist()) == list(range(len(listed)))
        assert writer.num_partitions == cache.num_partitions


def _sides(data: DetectionDataset) -> dict[str, np.ndarray]:
    return {"widths": data.widths, "heights": data.heights}


def test_a_relabelled_file_needs_no_new_cache(sealed: Path) -> None:
    data = make_dataset()
    other = replace(data, labels=(data.labels + 1) % 3, class_names=("a", "b", "c"))
    old, new = open_labelled(sealed), open_labelled(sealed, other)
    assert check(new) == len(data.boxes)
    for i in range(old.num_images):
        np.testing.assert_array_equal(new.labels(i), (old.labels(i) + 1) % 3)
    assert new.class_names == ("a", "b", "c")


def test_a_class_that_was_added(sealed: Path) -> None:
    data = make_dataset()
    other = replace(
        data,
        class_names=("ant", *data.class_names, "yak"),
        category_ids=np.array([0, 1, 5, 7, 9]),
        labels=data.labels + 1,
    )
    labelled = open_labelled(sealed, other)
    assert check(labelled) == len(data.boxes)
    assert labelled.boxed_classes.tolist() == [1, 2, 3]


def test_another_file_over_the_same_pictures(sealed: Path) -> None:
    """Some images, in another order, under other ids, with some of their boxes in another order."""
    data = make_dataset()
    keep = np.random.default_rng(1).permutation(len(data.boxes))[::2]
    other = with_boxes(data, data.boxes[keep], data.labels[keep], owners(data)[keep])
    other = other.select(np.random.default_rng(2).permutation(23)[:15])
    other = replace(other, image_ids=[f"other {i}" for i in range(15)], image_root=Path("elsewhere"))
    labelled = open_labelled(sealed, other)
    assert check(labelled) == len(other.boxes) > 10
    assert labelled.left_out == {}


def test_what_the_cache_does_not_have_is_counted(sealed: Path) -> None:
    data = make_dataset()
    boxes, owner = data.boxes.copy(), owners(data)
    boxes[5, 2] += np.float32(0.5)  # moved
    boxes = np.concatenate([boxes, [[1, 2, 3, 4]]])  # added
    other = with_boxes(data, boxes, np.append(data.labels, 1), np.append(owner, 2))
    names = [*data.file_names[:-1], "train/new.jpg"]
    labelled = open_labelled(sealed, replace(other, file_names=names))
    assert labelled.left_out == {IMAGE: 1, BOX: 2}
    assert check(labelled) == len(data.boxes) - 1 - int((owner == 22).sum())


def test_an_image_of_another_size_is_another_image(sealed: Path) -> None:
    data = make_dataset()
    widths = data.widths.copy()
    widths[8] += 1
    labelled = open_labelled(sealed, replace(data, widths=widths))
    assert labelled.left_out == {IMAGE: 1}
    assert labelled.match.images[8] == -1
    lost = labelled.cache.file_names.index(data.file_names[8])
    assert len(labelled.labels(lost)) == 0 < len(labelled.cache.boxes(lost))


def test_nothing_in_common(sealed: Path) -> None:
    data = make_dataset()
    labelled = open_labelled(sealed, replace(data, file_names=[f"x/{name}" for name in data.file_names]))
    assert labelled.left_out == {IMAGE: 23}
    assert labelled.boxed_classes.tolist() == []
    assert labelled.offsets[-1] == 0


def test_a_box_with_two_labels_is_read_twice(sealed: Path) -> None:
    data = make_dataset()
    row = int(np.flatnonzero(np.diff(data.offsets) > 1)[0])
    first = int(data.offsets[row])
    boxes = np.concatenate([data.boxes, data.boxes[first : first + 1]])
    other = with_boxes(
        data, boxes, np.append(data.labels, (data.labels[first] + 1) % 3), np.append(owners(data), row)
    )
    labelled = open_labelled(sealed, other)
    assert check(labelled) == len(data.boxes) + 1
    assert labelled.left_out == {}
    i = labelled.cache.file_names.index(data.file_names[row])
    rows, tokens = labelled.rows(i), labelled.queries("sam/transformer", i)
    assert len(tokens) == len(rows) == len(set(rows.tolist())) + 1
    np.testing.assert_array_equal(tokens, labelled.cache.read("sam/transformer", i)[rows])


def test_boxes_that_repeat_in_the_cache(tmp_path: Path) -> None:
    data = make_dataset(6)
    doubled = with_boxes(data, np.tile(data.boxes, (2, 1)), np.tile(data.labels, 2), np.tile(owners(data), 2))
    make_cache(tmp_path / "c", doubled)
    for dataset in (doubled, data):
        labelled = open_labelled(tmp_path / "c", dataset)
        assert check(labelled) == len(dataset.boxes)
        for i in range(6):
            tokens = labelled.queries("sam/transformer", i)
            assert len(tokens) == len(labelled.labels(i))


def test_a_negative_zero_is_a_zero(tmp_path: Path) -> None:
    data = make_dataset(4)
    data.boxes[:, 0] = 0
    make_cache(tmp_path / "c", data)
    other = replace(data, boxes=data.boxes * np.array([-1, 1, 1, 1], np.float32))
    assert np.signbit(other.boxes[:, 0]).all()
    found = open_labelled(tmp_path / "c", other)
    assert found.left_out == {}
    assert found.offsets[-1] == len(data.boxes) > 0


def test_without_any_box(sealed: Path, tmp_path: Path) -> None:
    empty = make_dataset(9, max_boxes=1)
    make_cache(tmp_path / "c", empty)
    labelled = open_labelled(tmp_path / "c", empty)
    assert labelled.left_out == {}
    assert labelled.boxed_classes.tolist() == []
    none = with_boxes(make_dataset(), np.empty((0, 4)), np.empty(0), np.empty(0, np.int64))
    assert open_labelled(sealed, none).offsets.tolist() == [0] * 24
    filled = with_boxes(empty, np.ones((1, 4)), np.zeros(1), np.zeros(1, np.int64))
    assert open_labelled(tmp_path / "c", filled).left_out == {BOX: 1}


def test_positions_of_boxes_need_no_network(sealed: Path) -> None:
    labelled = open_labelled(sealed)
    for i in range(labelled.num_images):
        made = position_vectors(labelled.cache.boxes(i)[labelled.rows(i)], labelled.cache.size(i))
        np.testing.assert_array_equal(labelled.queries(BOX_QUERY, i), made)


def test_views_are_matched_one_by_one(tmp_path: Path) -> None:
    data = with_views(make_dataset(9), Augmentation(flip=True, crops=1, seed=1))
    extract(create_cache(tmp_path / "c", data, partition_size=4, parts=[sam_part(), clip_part()]))
    cache = open_cache(tmp_path / "c")
    found = match(data, cache)
    assert found.fits(data.offsets).all()
    assert sorted(found.images.tolist()) == list(range(len(data)))
    np.testing.assert_array_equal(cache.views[found.images], data.views.numbers)
    assert len(data) > 18
    labelled = LabelledCache(cache, make_dataset(9))  # the pictures as they are
    assert check(labelled) == len(make_dataset(9).boxes)
    assert labelled.left_out == {}
    assert {int(cache.views[i]) for i in range(len(cache)) if len(labelled.labels(i))} == {0}


@given(
    keep=st.lists(st.booleans(), min_size=101, max_size=101),
    moved=st.sets(st.integers(0, 100), max_size=5),
    order=st.permutations(range(23)),
    images=st.integers(1, 23),
)
def test_any_file_over_the_pictures(
    sealed: Path, keep: list[bool], moved: set[int], order: list[int], images: int
) -> None:
    data = make_dataset()
    chosen = np.flatnonzero(keep)
    boxes = data.boxes.copy()
    boxes[sorted(moved), 1] += np.float32(100)
    other = with_boxes(data, boxes[chosen], data.labels[chosen], owners(data)[chosen])
    other = other.select(np.array(order[:images]))
    labelled = open_labelled(sealed, other)
    assert IMAGE not in labelled.left_out
    assert check(labelled) == len(other.boxes) - labelled.left_out[BOX]
    assert labelled.left_out[BOX] <= len(moved)
