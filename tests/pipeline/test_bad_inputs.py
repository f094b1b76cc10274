"""Annotation files, images and folders as people really have them: a clear error, or a counted loss."""

import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regionspot_cache.store import open_cache
from tests.running import Ran, rs_cache

SMALL = ("--backbone", "small.yaml", "--set", "partition_size=4")
CACHE = Path("cache")
TOKENS, MAP = "sam/transformer", "clip/map"
WIDE = 20_000


def image(id: int, name: str, size: tuple[int, int] = (64, 48)) -> dict[str, Any]:
    return {"id": id, "file_name": name, "width": size[0], "height": size[1]}


def box(id: int, image_id: int, xywh: list[float], category: int = 1) -> dict[str, Any]:
    return {"id": id, "image_id": image_id, "category_id": category, "bbox": xywh, "area": 1, "iscrowd": 0}


def write(images: list, annotations: list, folder: Path = Path()) -> Path:
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    value = {"images": images, "annotations": annotations, "categories": categories}
    file = folder / "boxes.json"
    file.write_text(json.dumps(value), encoding="utf-8")
    return file


def draw(name: str, size: tuple[int, int] = (64, 48)) -> Path:
    path = Path("photos") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(name)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    return path


def extract(file: Path, *options: object) -> Ran:
    return rs_cache("extract", "--dataset", file, "--images", "photos", *SMALL, "--cache", CACHE, *options)


def test_every_loss_is_counted_and_named(workplace: Path) -> None:
    ok = [0, 0, 20, 20]
    composed = "straße/café 東京.jpg"
    for name in ("plain.jpg", unicodedata.normalize("NFD", composed), "truncated.jpg", "small.jpg"):
        draw(name)
    draw("wide.jpg", (WIDE, 8))
    truncated = Path("photos/truncated.jpg")
    truncated.write_bytes(truncated.read_bytes()[:700])
    Path("secret.jpg").write_bytes(Path("photos/plain.jpg").read_bytes())
    Path("photos/link.jpg").symlink_to(Path("secret.jpg").absolute())
    names = {
        1: "plain.jpg",
        2: composed,
        3: "truncated.jpg",
        4: "missing.jpg",
        5: "../secret.jpg",
        6: "/etc/passwd",
        7: "link.jpg",
    }
    images = [image(i, name) for i, name in names.items()]
    images += [image(8, "wide.jpg", (WIDE, 8)), image(9, "small.jpg", (63, 48)), image(10, "plain.jpg")]
    boxes = [[5, 5, 0, 9], [5, 5, 9, 0], [5, 5, -3, 9], [100, 5, 9, 9], [-30, 5, 9, 9], [5, 5, 9, math.nan]]
    boxes += [[math.inf, 5, 9, 9], [60, 40, 50, 50], [5, 5, 9, 9], [5, 5, 9, 9]]
    annotations = [box(i, 1, xywh) for i, xywh in enumerate(boxes)]
    annotations += [box(100 + i, i, ok) for i in range(2, 10) if i != 8]
    annotations += [box(200, 8, [19_000, 1, 900, 6]), box(201, 99, ok)]
    ran = extract(write(images, annotations), "--json")
    assert ran.code == 3, ran.err  # half of the images failed
    assert ran.json["images"] == 8  # two names lead out of the folder
    assert ran.json["failed_images"] == 4
    parts = rs_cache("status", CACHE, "--json").json["parts"]
    for part in parts.values():
        assert {f["file_name"]: f["reason"] for f in part["failures"]} == {
            "truncated.jpg": "undecodable",
            "missing.jpg": "missing",
            "link.jpg": "outside root",
            "small.jpg": "size mismatch",
        }
        assert part["images"]["ok"] == 4
    dropped = rs_cache("info", CACHE, "--json").json["dropped"]
    assert dropped == {
        "image: file name leaves the image folder": 2,
        "unknown image": 3,  # two of the images above, and number 99
        "too small": 3,
        "outside image": 2,
        "non-finite box": 2,
        "duplicate box": 1,
    }
    cache = open_cache(CACHE)
    ids = [cache.image(i)[0] for i in range(len(cache))]
    plain, wide, empty = (ids.index(i) for i in (1, 8, 10))
    np.testing.assert_array_equal(cache.boxes(plain), [[60, 40, 64, 48], [5, 5, 14, 14]])
    assert cache.read(TOKENS, plain).shape[0] == 2
    assert np.isfinite(cache.read(TOKENS, wide)).all()
    assert cache.read(TOKENS, empty).shape[0] == 0
    np.testing.assert_array_equal(cache.read(MAP, empty), cache.read(MAP, plain))
    assert rs_cache("verify", CACHE, "--full").code == 0
    again = extract(Path("boxes.json"), "--json")  # the same dataset, though two entries are one file
    assert (again.code, again.json["computed_images"]) == (3, 4), again.err


def test_a_dataset_without_any_box(workplace: Path) -> None:
    for name in "ab":
        draw(f"{name}.jpg")
    ran = extract(write([image(1, "a.jpg"), image(2, "b.jpg")], []), "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["boxes"], ran.json["failed_images"]) == (0, 0)
    assert rs_cache("verify", CACHE, "--full").code == 0
    assert open_cache(CACHE).read(TOKENS, 0).shape[0] == 0


def test_annotation_files_that_cannot_be_used(workplace: Path) -> None:
    draw("a.jpg")
    good = [image(1, "a.jpg")]
    for images, annotations, found in (
        (good, [box(7, 1, [1, 1, 9, 9], category=3)], "Annotation 7 in boxes.json has class id 3"),
        (good, [{"id": 1, "image_id": 1, "category_id": 1}], "lacks 'bbox'"),
        (good, [box(7, 1, [1, 1, 9])], "cannot be used"),
        (good * 2, [], "image id 1 more than once"),
        ([], [], "no usable image"),
        ([{"id": 1, "file_name": "a.jpg"}], [], "lacks 'width'"),
        ([image(1, "b.jpg")], [], "None of the images is there"),
    ):
        ran = extract(write(images, annotations))
        assert ran.code == 1
        assert found in ran.error["error"]
        assert ran.error["expected"]
    Path("boxes.json").write_text('{"images": [')
    assert extract(Path("boxes.json")).code == 1
    Path("boxes.json").write_text("[]")
    assert "holds a list" in extract(Path("boxes.json")).error["error"]
    ran = extract(Path("absent.json"))
    assert ran.code == 1
    assert "absent.json" in ran.error["error"]
    ran = rs_cache("extract", "--dataset", write(good, []), "--images", "nowhere", *SMALL)
    assert "There is no image folder nowhere" in ran.error["error"]
    assert not CACHE.exists()


@pytest.mark.parametrize("name", ["o365", "openimages", "v3det", "lvis", "coco"])
def test_a_dataset_that_is_not_here_says_which_files_go_where(name: str, workplace: Path) -> None:
    ran = rs_cache("extract", "--dataset", name, *SMALL)
    assert ran.code == 1
    assert f"{name} (" in ran.error["error"]
    assert "rs-cache-data/datasets" in ran.error["expected"]
    assert "https://" in ran.error["expected"]
    assert "--dataset shapes" in ran.error["next"]
    if name == "o365":
        for text in ("zhiyuan_objv2_train.json", "objects365_train.json", "www.objects365.org"):
            assert text in ran.error["expected"]


def test_backbone_files_that_make_no_sense(workplace: Path) -> None:
    for text, code, found in (
        ("sma: {}", 2, "Unknown key sma"),
        ("parts: {sam: {network: sam, model: packaged, weights: 'random:x'}, CLIP}", 2, "random:x"),
        ("parts: {sam: {network: sam, model: vit_x}, CLIP}", 2, "vit_x"),
        ("parts: {sam: {network: sam, model: packaged, weights: none.pth}, CLIP}", 1, "none.pth"),
        ("parts: {sam: {network: sam, model: packaged, weights: small.yaml}, CLIP}", 1, "small.yaml"),
        ("parts: {sam: {network: sam}}", 2, "head.memory = clip/map"),
        ("[", 2, "not YAML"),
    ):
        Path("own.yaml").write_text(text.replace("CLIP", "clip: {network: clip, model: packaged}"))
        ran = rs_cache("extract", "--backbone", "own.yaml", "--part", "sam")
        assert ran.code == code, ran.err
        assert found in ran.error["error"]
        assert ran.error["expected"]
    assert rs_cache("extract", "--backbone", "absent.yaml").code == 1
