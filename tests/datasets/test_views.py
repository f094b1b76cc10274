"""Datasets with extra views: which records there are, where their boxes lie, and what was left out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.datasets import DetectionDataset, with_views
from regionspot_cache.datasets.augmentation import Augmentation, to_view, view_sizes
from regionspot_cache.datasets.coco_style import read_coco_style
from regionspot_cache.datasets.regions import BoxPolicy, box_area
from regionspot_cache.datasets.views import CUT_AWAY, KEPT_SHARE, WITHOUT_BOXES
from regionspot_cache.errors import InputError
from tests.datasets.builders import annotation, classes, coco_json, image, image_file

BOTH = Augmentation(flip=True, crops=3, seed=5)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    """40 images of 40 x 30 pixels with up to seven boxes each; every tenth has none."""
    folder, random = tmp_path_factory.mktemp("views"), np.random.default_rng(0)
    image_file(folder / "0.jpg")
    annotations = []
    for number in range(40):
        for _ in range(0 if number % 10 == 0 else random.integers(1, 8)):
            x, y = random.uniform(0, 35), random.uniform(0, 25)
            box = (x, y, random.uniform(1, 40 - x), random.uniform(1, 30 - y))
            annotations.append(annotation(len(annotations), number, int(random.integers(1, 4)), box))
    images = [image(number, f"{number}.jpg") for number in range(40)]
    file = coco_json(folder / "train.json", images, annotations, classes("cat", "dog", "owl"))
    return read_coco_style(file, roots=(folder,))


def record_of(dataset: DetectionDataset, origin: int, view: int) -> int | None:
    assert dataset.views is not None
    found = np.flatnonzero((dataset.views.origins == origin) & (dataset.views.numbers == view))
    assert len(found) <= 1
    return int(found[0]) if len(found) else None


def test_no_extra_views_is_the_dataset_itself(dataset: DetectionDataset) -> None:
    assert with_views(dataset, Augmentation()) is dataset
    assert dataset.views is None


def test_every_image_is_there_as_it_is_and_views_share_its_file(dataset: DetectionDataset) -> None:
    more = with_views(dataset, BOTH)
    assert more.augmentation == BOTH
    assert more.views is not None
    assert np.array_equal(more.views.origins[:40], np.arange(40))
    for i, record in enumerate(dataset):
        same = more[i]
        assert (same.image_id, same.file_name, same.width) == (
            record.image_id,
            record.file_name,
            record.width,
        )
        np.testing.assert_array_equal(same.boxes, record.boxes)
        np.testing.assert_array_equal(same.labels, record.labels)
    for i in range(len(more)):
        original = dataset[int(more.views.origins[i])]
        assert (more.image_ids[i], more.file_names[i]) == (original.image_id, original.file_name)
        assert list(more.views.frames[i, :2]) == [original.width, original.height]
        assert [more.widths[i], more.heights[i]] == view_sizes(more.views.frames[i : i + 1])[0].tolist()


def test_a_flip_keeps_every_box(dataset: DetectionDataset) -> None:
    more = with_views(dataset, BOTH)
    for origin in range(40):
        i = record_of(more, origin, 1)
        assert (i is None) == (len(dataset[origin].boxes) == 0)
        if i is not None:
            expected = dataset[origin].boxes.copy()
            expected[:, [0, 2]] = 40 - expected[:, [2, 0]]
            np.testing.assert_array_equal(more[i].boxes, expected)
            np.testing.assert_array_equal(more[i].annotation_ids, dataset[origin].annotation_ids)


def test_crops_hold_what_can_be_seen_and_count_the_rest(dataset: DetectionDataset) -> None:
    more, policy = with_views(dataset, BOTH), dataset.policy
    cut = 0
    for view in (2, 3, 4):
        for origin in range(40):
            record, i = dataset[origin], record_of(more, origin, view)
            if i is None:
                cut += len(record.boxes)
                continue
            frame, crop = more.views.frames[i], more[i]
            assert (crop.boxes[:, :2] >= 0).all()
            assert (crop.boxes[:, 2:] <= [crop.width, crop.height]).all()
            assert (crop.boxes[:, 2:] - crop.boxes[:, :2] >= policy.min_size).all()
            moved = to_view(record.boxes, np.tile(frame, (len(record.boxes), 1)))
            inside = np.clip(moved, 0, [crop.width, crop.height] * 2)
            kept = np.isin(record.annotation_ids, crop.annotation_ids)
            np.testing.assert_array_equal(crop.boxes, inside[kept])
            np.testing.assert_array_equal(crop.labels, record.labels[kept])
            share = box_area(inside) / box_area(record.boxes)
            small = (inside[:, 2:] - inside[:, :2]).min(axis=1) < policy.min_size
            assert np.array_equal(kept, (share >= KEPT_SHARE) & ~small)
            cut += int((~kept).sum())
    reasons = {reason: count for reason, count in more.dropped.items() if " in crop " in reason}
    assert cut == sum(reasons.values())
    assert more.dropped[f"{CUT_AWAY} in crop 2"] > 0
    assert more.dropped[WITHOUT_BOXES] == 40 * 5 - len(more)


def test_views_do_not_depend_on_the_sample(dataset: DetectionDataset) -> None:
    augmentation = replace(BOTH, jitter=0.1)
    whole, part = with_views(dataset, augmentation), with_views(dataset.sample(9, seed=2), augmentation)
    where = {key: i for i, key in enumerate(zip(whole.image_ids, whole.views.numbers, strict=True))}
    for i, key in enumerate(zip(part.image_ids, part.views.numbers, strict=True)):
        np.testing.assert_array_equal(part[i].boxes, whole[where[key]].boxes)
        np.testing.assert_array_equal(part.views.frames[i], whole.views.frames[where[key]])


def test_views_do_not_depend_on_how_many_images_are_moved_at_once(
    dataset: DetectionDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    augmentation = replace(BOTH, jitter=0.1)
    whole = with_views(dataset, augmentation)
    monkeypatch.setattr("regionspot_cache.datasets.views._BLOCK", 7)
    parts = with_views(dataset, augmentation)
    assert parts.image_ids == whole.image_ids
    assert parts.dropped == whole.dropped
    for name in ("offsets", "boxes", "labels", "annotation_ids", "widths", "heights"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    for name in ("numbers", "origins", "frames"):
        np.testing.assert_array_equal(getattr(parts.views, name), getattr(whole.views, name))


def test_jitter_moves_the_boxes_of_extra_views_alone(dataset: DetectionDataset) -> None:
    exact, moved = with_views(dataset, BOTH), with_views(dataset, replace(BOTH, jitter=0.1))
    assert np.array_equal(exact.views.frames, moved.views.frames)
    extra = exact.views.numbers[np.repeat(np.arange(len(exact)), np.diff(exact.offsets))] > 0
    np.testing.assert_array_equal(moved.boxes[~extra], exact.boxes[~extra])
    assert (moved.boxes[extra] != exact.boxes[extra]).any(axis=1).mean() > 0.9
    np.testing.assert_array_equal(moved.labels, exact.labels)


def test_a_choice_of_images_keeps_their_views(dataset: DetectionDataset) -> None:
    more = with_views(dataset, BOTH)
    chosen = more.select(np.array([45, 3]))
    assert chosen.views.numbers.tolist() == [more.views.numbers[45], 0]
    np.testing.assert_array_equal(chosen.views.frames, more.views.frames[[45, 3]])


def test_views_of_views_are_refused(dataset: DetectionDataset) -> None:
    with pytest.raises(InputError, match="already"):
        with_views(with_views(dataset, BOTH), BOTH)


def test_unclipped_boxes_are_cut_in_crops(tmp_path: Path) -> None:
    image_file(tmp_path / "0.jpg")
    boxes = [annotation(1, 1, 1, (-4, 2, 30, 20))]
    file = coco_json(tmp_path / "train.json", [image(1, "0.jpg")], boxes)
    dataset = read_coco_style(file, roots=(tmp_path,), policy=BoxPolicy(clip=False))
    more = with_views(dataset, Augmentation(flip=True, crops=1, min_scale=0.9))
    assert more.boxes[1].tolist() == [14, 2, 44, 22]
    assert more.boxes[2].min() >= 0
