"""Label spaces of the built-in world: which images, boxes and categories each one has."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from regionspot_cache.datasets import shapes
from regionspot_cache.datasets.shapes import materialise, materialise_space
from regionspot_cache.datasets.shapes_annotations import SPACES, restrict, space_category_ids, space_file
from regionspot_cache.datasets.shapes_classes import CLASSES, class_probabilities
from regionspot_cache.errors import DamageError


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "shapes"
    materialise(root, seed=5, train=25, val=2, processes=1)
    for space in SPACES:
        assert materialise_space(root, space) == root / space_file(space)
    return root


@pytest.mark.parametrize("damage", ["cut", "other", "gone", "no marker"])
def test_a_space_is_never_made_from_a_damaged_world(tmp_path: Path, world: Path, damage: str) -> None:
    root = shutil.copytree(world, tmp_path / "shapes")
    train = root / "train.json"
    (root / space_file("s")).unlink()
    if damage == "cut":
        train.write_bytes(train.read_bytes()[:-100])
    elif damage == "other":
        train.write_text(train.read_text().replace('"frequency":"r"', '"frequency":"c"', 1))
    else:
        (train if damage == "gone" else root / "COMPLETE").unlink()
    with pytest.raises(DamageError, match=r"train\.json is not the file") as caught:
        materialise_space(root, "s")
    assert caught.value.remedy == f"rm -r {root}"


def load(root: Path, name: str) -> dict:
    return json.loads((root / name).read_text())


def test_spaces_are_nested_and_hold_the_most_frequent_boxed_classes() -> None:
    small, medium, large = (space_category_ids(space) for space in "sml")
    assert (len(small), len(medium), len(large)) == (64, 128, 256)
    assert small < medium < large
    assert large == {c.index + 1 for c in CLASSES if not c.novel}
    expected = class_probabilities("train")
    assert min(expected[i - 1] for i in small) > max(expected[i - 1] for i in large - small)


def test_images_are_disjoint_thirds(world: Path) -> None:
    train = load(world, "train.json")
    thirds = [load(world, space_file(space))["images"] for space in SPACES]
    assert [len(images) for images in thirds] == [9, 8, 8]
    assert sorted(i["id"] for images in thirds for i in images) == [i["id"] for i in train["images"]]


@pytest.mark.parametrize("space", SPACES)
def test_boxes_are_all_those_of_the_space_and_nothing_else_is_mentioned(world: Path, space: str) -> None:
    train, part, kept = load(world, "train.json"), load(world, space_file(space)), space_category_ids(space)
    images = {image["id"]: image for image in train["images"]}
    chosen = {image["id"] for image in part["images"]}
    assert part["annotations"]
    assert part["annotations"] == [
        a for a in train["annotations"] if a["image_id"] in chosen and a["category_id"] in kept
    ]
    assert {c["id"] for c in part["categories"]} == kept
    for image in part["images"]:
        original = images[image["id"]]
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            assert image[key] == [number for number in original[key] if number in kept]
        assert image["file_name"] == original["file_name"]
        assert (world / "images" / image["file_name"]).is_file()


@pytest.mark.parametrize("space", SPACES)
def test_categories_keep_their_names_and_are_counted_again(world: Path, space: str) -> None:
    whole = {c["id"]: c for c in load(world, "train.json")["categories"]}
    part = load(world, space_file(space))
    boxes = Counter(a["category_id"] for a in part["annotations"])
    for category in part["categories"]:
        original = whole[category["id"]]
        assert category["name"] == original["name"]
        assert category["frequency"] == original["frequency"]
        assert category["instance_count"] == boxes[category["id"]]
        assert category["image_count"] <= min(category["instance_count"], len(part["images"]))
    assert sum(c["instance_count"] for c in part["categories"]) == len(part["annotations"])


def test_images_stay_when_they_lose_all_boxes(world: Path) -> None:
    train = load(world, "train.json")
    rare = min(space_category_ids("l") - space_category_ids("s"))
    part = restrict({**train, "annotations": [{**train["annotations"][0], "category_id": rare}]}, "s")
    assert part["annotations"] == []
    assert len(part["images"]) == 9


def test_a_written_file_is_left_alone_and_a_missing_one_is_the_same_again(world: Path) -> None:
    path = world / space_file("m")
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    materialise_space(world, "m")
    assert path.stat().st_mtime_ns == stamp
    path.unlink()
    materialise_space(world, "m")
    assert path.read_bytes() == before


def test_an_interrupted_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    materialise(tmp_path, train=3, val=1, processes=1)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shapes.os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            materialise_space(tmp_path, "l")
    assert not list(tmp_path.glob("*train-l*"))
    assert materialise_space(tmp_path, "l").is_file()


def test_a_world_drawn_again_takes_its_label_spaces_with_it(tmp_path: Path) -> None:
    materialise(tmp_path, seed=1, train=4, val=1, processes=1)
    old = materialise_space(tmp_path, "s").read_bytes()
    (tmp_path / "COMPLETE").unlink()
    materialise(tmp_path, seed=2, train=4, val=1, processes=1)
    assert not (tmp_path / space_file("s")).exists()
    assert materialise_space(tmp_path, "s").read_bytes() != old
