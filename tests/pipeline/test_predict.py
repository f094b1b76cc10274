"""`rs-cache predict`: one image."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.predict import parse_boxes, parse_classes
from regionspot_cache.errors import MissingFileError, UsageError
from tests.running import Ran, rs_cache

RUN = Path("rs-cache-data/runs/small")
IMAGE = Path("rs-cache-data/datasets/shapes/images/val/000001.jpg")


def predict(cwd: Path, *options: object) -> Ran:
    return rs_cache("predict", IMAGE, "--checkpoint", RUN, *options, cwd=cwd)


def test_given_boxes_get_names_and_pictures(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "named.png"
    options = ("--boxes", "10,10,60,60; 40.5,30,90,100", "--classes", "red star, blue circle,dog")
    ran = predict(finished, *options, "--out", out, "--json")
    assert ran.code == 0, ran.err
    regions = ran.json["regions"]
    assert [region["box"] for region in regions] == [[10, 10, 60, 60], [40.5, 30, 90, 100]]
    assert all(region["name"] in {"red star", "blue circle", "dog"} for region in regions)
    assert all(1 / 3 <= region["score"] <= 1 for region in regions)
    assert ran.json["pictures"] == [str(out), str(tmp_path / "named-attention.png")]
    for picture in ran.json["pictures"]:
        assert np.asarray(Image.open(picture)).std() > 1
    text = predict(finished, *options, "--out", out)
    assert regions[0]["name"] in text.out
    assert str(out) in text.out


def test_the_network_proposes_boxes_and_the_head_knows_its_classes(finished: Path, tmp_path: Path) -> None:
    ran = predict(finished, "--top", 5, "--out", tmp_path / "a.jpg", "--json")
    assert ran.code == 0, ran.err
    names = (finished / RUN / "classes.txt").read_text().splitlines()
    assert 0 < len(ran.json["regions"]) <= 5
    assert {region["name"] for region in ran.json["regions"]} <= set(names)


@pytest.mark.parametrize(
    ("options", "code", "found"),
    [
        (("--boxes", "1,2,3", "--classes", "a"), 2, "--boxes"),
        (("--boxes", "a,b,c,d", "--classes", "a"), 2, "--boxes"),
        (("--boxes", "none.json", "--classes", "a"), 2, "none.json"),
        (("--boxes", "9,9,5,5", "--classes", "a"), 1, "[9.0, 9.0, 5.0, 5.0]"),
        (("--boxes", "nan,9,15,15", "--classes", "a"), 1, "nan"),
        (("--boxes", "9000,9,9100,15", "--classes", "a"), 1, "9000"),
        (("--boxes", "1,1,9,9", "--classes", " , "), 2, "names nothing"),
        (("--boxes", "1,1,9,9", "--out", "small.yaml/x.png"), 1, "small.yaml/x.png"),
        (("--boxes", "1,1,9,9", "--out", "x.unknown"), 1, "x.unknown"),
        (("--checkpoint", "nowhere"), 1, "nowhere"),
        (("--set", "backbone=other.yaml"), 4, "clip.weights_sha256"),
    ],
)
def test_what_cannot_be_predicted(options: tuple[str, ...], code: int, found: str, finished: Path) -> None:
    ran = predict(finished, *options)
    assert ran.code == code, ran.err
    assert found in ran.error["error"]
    assert ran.error.get("expected") or ran.error.get("next")


@pytest.mark.parametrize("image", ["none.jpg", "small.yaml", "rs-cache-data"])
def test_what_is_no_image(image: str, finished: Path) -> None:
    ran = rs_cache("predict", image, "--checkpoint", RUN, "--boxes", "1,1,9,9", cwd=finished)
    assert ran.code == 1
    assert image in ran.error["error"]


def test_boxes_and_classes_from_files(tmp_path: Path) -> None:
    boxes, classes = tmp_path / "boxes.json", tmp_path / "classes.txt"
    boxes.write_text(json.dumps([[1, 2, 3, 4], [5, 6, 7, 8]]))
    classes.write_text("cat\n\n big dog \n", encoding="utf-8")
    np.testing.assert_array_equal(parse_boxes(str(boxes)), [[1, 2, 3, 4], [5, 6, 7, 8]])
    np.testing.assert_array_equal(parse_boxes("1,2,3,4;"), [[1, 2, 3, 4]])
    assert parse_classes(str(classes), tmp_path) == ["cat", "big dog"]
    assert parse_classes(None, tmp_path) == ["cat", "big dog"]  # CLASSES_FILE of a model folder
    classes.unlink()
    with pytest.raises(MissingFileError):
        parse_classes(None, tmp_path)
    boxes.write_text("[[1, 2], [3]]")
    with pytest.raises(UsageError):
        parse_boxes(str(boxes))
