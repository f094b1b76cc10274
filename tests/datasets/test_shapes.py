"""The built-in world: determinism, LVIS fields, novelty, resuming."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from regionspot_cache.datasets import shapes
from regionspot_cache.datasets.shapes import World, draw, materialise
from regionspot_cache.datasets.shapes_classes import CLASS_NAMES, CLASSES, caption, class_probabilities
from regionspot_cache.datasets.shapes_scene import MIN_SIDE, draw_scene, draw_single, image_rng
from regionspot_cache.errors import InputError

SIZE = {"seed": 3, "train": 120, "val": 60}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "shapes"
    materialise(root, **SIZE, processes=1)
    return root


def digests(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def load(root: Path, split: str) -> dict:
    return json.loads((root / f"{split}.json").read_text())


def test_classes_are_every_combination_and_a_fifth_is_novel_within_each_attribute() -> None:
    assert len(set(CLASS_NAMES)) == 320
    for attribute in ("texture", "colour", "shape"):
        every = Counter(getattr(c, attribute) for c in CLASSES)
        novel = Counter(getattr(c, attribute) for c in CLASSES if c.novel)
        assert all(abs(novel[value] - count / 5) < 1 for value, count in every.items())


def test_class_probabilities() -> None:
    train, val = class_probabilities("train"), class_probabilities("val")
    novel = np.array([c.novel for c in CLASSES])
    assert train.sum() == pytest.approx(1)
    assert np.all(val == 1 / 320)
    assert train[novel].sum() == pytest.approx(0.1)
    assert train[~novel].max() / train[~novel].min() > 50  # long-tailed


def test_captions_name_four_objects_at_most() -> None:
    assert caption([0]) == "a plain red circle"
    assert caption([0, 1]) == "a plain red circle and a striped red circle"
    assert caption([0, 1, 2, 3, 4, 5]).count(" red ") == 4


def test_scene_boxes_enclose_visible_masks() -> None:
    for index in range(20):
        scene = draw_scene(image_rng(1, index), class_probabilities("val"))
        assert scene.image.shape == (256, 256, 3)
        assert scene.masks.sum(0).max() <= 1  # a pixel belongs to one object
        for box, mask in zip(scene.boxes.astype(int), scene.masks, strict=True):
            x1, y1, x2, y2 = box
            assert min(x2 - x1, y2 - y1) >= MIN_SIDE
            inside = mask[y1:y2, x1:x2]
            assert inside.sum() == mask.sum()
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()


def test_object_sides_span_a_factor_of_five() -> None:
    boxes = [draw_scene(image_rng(2, i), class_probabilities("val")).boxes for i in range(60)]
    sides = (np.concatenate(boxes)[:, 2:] - np.concatenate(boxes)[:, :2]).max(1)
    assert np.quantile(sides, 0.98) / np.quantile(sides, 0.02) > 4.5


def test_singles_of_different_classes_differ_and_repeat_exactly() -> None:
    first, again = (draw_single(image_rng(4, 0), 7, 48) for _ in range(2))
    other = draw_single(image_rng(4, 0), 250, 48)
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 5


def test_same_seed_gives_the_same_bytes_and_parallel_equals_serial(world: Path, tmp_path: Path) -> None:
    materialise(tmp_path / "parallel", **SIZE, processes=2)
    assert digests(tmp_path / "parallel") == digests(world)


def test_another_seed_gives_another_world() -> None:
    a, b = (draw(World(seed=seed), "train", 0)[0] for seed in (0, 1))
    assert not np.array_equal(a.image, b.image)


def test_splits_are_disjoint_images() -> None:
    train, val = (draw(World(), split, 0) for split in ("train", "val"))
    assert not np.array_equal(train[0].image, val[0].image)
    assert train[1]["image"]["id"] != val[1]["image"]["id"]


def test_lvis_fields_are_consistent(world: Path) -> None:
    train = load(world, "train")
    train_images: Counter[int] = Counter()
    for category in {(a["image_id"], a["category_id"]) for a in train["annotations"]}:
        train_images[category[1]] += 1
    for split in ("train", "val"):
        data = load(world, split)
        assert [c["id"] for c in data["categories"]] == list(range(1, 321))
        assert [a["id"] for a in data["annotations"]] == list(range(1, len(data["annotations"]) + 1))
        instances = Counter(a["category_id"] for a in data["annotations"])
        for category in data["categories"]:
            count = train_images[category["id"]]
            assert category["frequency"] == ("r" if count < 10 else "c" if count < 100 else "f")
            assert category["instance_count"] == instances[category["id"]]
            assert {"name", "synonyms", "synset", "def", "image_count", "novel"} <= set(category)


def test_image_entries_match_their_annotations(world: Path) -> None:
    for split in ("train", "val"):
        data = load(world, split)
        present: dict[int, set[int]] = {}
        for a in data["annotations"]:
            present.setdefault(a["image_id"], set()).add(a["category_id"])
        for image in data["images"]:
            negatives = set(image["neg_category_ids"])
            assert len(negatives) == 30
            assert not negatives & (
                present.get(image["id"], set()) | set(image["not_exhaustive_category_ids"])
            )
            with Image.open(world / "images" / image["file_name"]) as picture:
                assert picture.size == (image["width"], image["height"])


def test_masks_agree_with_boxes_and_areas(world: Path) -> None:
    for a in load(world, "val")["annotations"][:80]:
        assert int(coco_mask.area(a["segmentation"])) == a["area"]
        assert coco_mask.toBbox(a["segmentation"]).tolist() == a["bbox"]


def test_novel_classes_are_seen_but_never_boxed_in_training(world: Path) -> None:
    train, val = load(world, "train"), load(world, "val")
    novel = {c["id"] for c in train["categories"] if c["novel"]}
    assert len(novel) == 64
    assert not novel & {a["category_id"] for a in train["annotations"]}
    assert not novel & {i for image in train["images"] for i in image["neg_category_ids"]}
    assert novel & {a["category_id"] for a in val["annotations"]}
    shown = {
        int(label) + 1 for i in range(SIZE["train"]) for label in draw(World(**SIZE), "train", i)[0].labels
    }
    assert novel & shown


def test_interrupted_materialisation_continues(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, write, written = tmp_path / "shapes", shapes._write_chunk, []

    def fail_at_third(folder: Path, chunk: shapes.Chunk) -> shapes.Chunk:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(chunk)
        return write(folder, chunk)

    monkeypatch.setattr(shapes, "_write_chunk", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        materialise(root, **SIZE, processes=1)
    assert not (root / "COMPLETE").exists()
    redone = []
    monkeypatch.setattr(shapes, "_write_chunk", lambda folder, c: redone.append(c) or write(folder, c))
    materialise(root, **SIZE, processes=1)
    assert not set(redone) & set(written)
    assert digests(root) == digests(world)


def test_an_interrupted_world_that_another_one_drew_over_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"train": 51, "val": 1, "processes": 1}
    materialise(tmp_path / "whole", seed=1, **sizes)
    write = shapes._write_chunk
    for seed in (1, 2):
        chunks = iter(range(1))

        def only_one(folder: Path, chunk: shapes.Chunk, left: Iterator[int] = chunks) -> shapes.Chunk:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return write(folder, chunk)

        monkeypatch.setattr(shapes, "_write_chunk", only_one)
        with pytest.raises(KeyboardInterrupt):
            materialise(tmp_path / "shapes", seed=seed, **sizes)
    monkeypatch.setattr(shapes, "_write_chunk", write)
    materialise(tmp_path / "shapes", seed=1, **sizes)
    assert digests(tmp_path / "shapes") == digests(tmp_path / "whole")


def test_complete_worlds_are_left_alone(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_write_chunks", lambda *_: pytest.fail("drew a complete world again"))
    materialise(world, **SIZE)


def test_other_parameters_are_refused(world: Path) -> None:
    with pytest.raises(InputError, match="seed"):
        materialise(world, seed=4, train=120, val=60)


@pytest.mark.parametrize("torn", ["", '{"world": {"se', "[]"])
def test_torn_markers_do_not_count(world: Path, tmp_path: Path, torn: str) -> None:
    root = tmp_path / "shapes"
    materialise(root, seed=1, train=4, val=2, processes=1)
    intact = digests(root)
    (root / "COMPLETE").write_text(torn)
    (root / "train.json").write_text("{")
    materialise(root, seed=1, train=4, val=2, processes=1)
    assert digests(root) == intact


def test_progress_counts_images(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    materialise(
        tmp_path, train=60, val=5, processes=1, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(50, 65), (60, 65), (65, 65)]
