"""`rs-cache predict`: one image."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.predict import line_of
from pipeline.verbs.predict import parse_boxes, parse_classes
from regionspot_cache.errors import MissingFileError, UsageError
from tests.reporting.test_page import Page
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


def test_beside_the_baselines(finished: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "named.png", ("--boxes", "10,10,60,60; 40,30,90,100", "--classes", "star,dog")
    ran = predict(finished, *options, "--out", out, "--compare", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["pictures"] == [
        str(tmp_path / f"named{end}.png") for end in ("", "-attention", "-compare")
    ]
    assert "report" not in ran.json
    for region in ran.json["regions"]:
        assert list(region["baselines"]) == ["clip-box", "clip-mask"]
        for named in region["baselines"].values():
            assert named["name"] in {"star", "dog"}
            assert 0.5 <= named["score"] <= 1
    assert np.asarray(Image.open(tmp_path / "named-compare.png")).std() > 1
    alone = predict(finished, *options, "--out", out, "--json").json["regions"]
    assert all("baselines" not in region for region in alone)
    for one, beside in zip(alone, ran.json["regions"], strict=True):
        assert one == {key: beside[key] for key in one}


def test_folders_of_what_is_written_are_made(finished: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "new" / "folder" / "x.png", tmp_path / "other" / "page.html"
    ran = predict(finished, "--boxes", "10,10,60,60", "--out", out, "--report", report)
    assert ran.code == 0, ran.err
    assert out.is_file()
    assert report.is_file()


def test_a_line_for_people_names_the_baselines_too() -> None:
    region = {"box": [1, 2, 3, 4], "name": "star", "score": 0.5}
    assert line_of(region).split() == ["0.50", "star", "[1,", "2,", "3,", "4]"]
    beside = line_of({**region, "baselines": {"clip-box": {"name": "dog", "score": 0.25}}})
    assert beside.endswith("clip-box: dog 0.25")


def test_a_page_with_everything(finished: Path, tmp_path: Path) -> None:
    report, boxes = tmp_path / "page.html", "10,10,60,60; 40,30,90,100; 0,0,128,128"
    options = ("--boxes", boxes, "--classes", "star,<b>dog</b>,blue circle", "--out", tmp_path / "a.png")
    ran = predict(finished, *options, "--report", report, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["report"] == str(report)
    page = Page(report.read_text(encoding="utf-8"))
    images = page.all("img")
    assert len(images) == 3 + 1 + 3 * 2  # side by side, masks, the attention of every box by layer
    assert all(str(image["src"]).startswith("data:image/") for image in images)
    assert not {"script", "link", "b"} & {tag for tag, _ in page.elements}
    for region in ran.json["regions"]:
        for named in (region, *region["baselines"].values()):
            scores = re.findall(re.escape(named["name"]) + r" (\d\.\d\d)", page.text)
            assert any(float(score) == pytest.approx(named["score"], abs=0.006) for score in scores)
    assert "256 x 256 pixels" in page.text


def test_examples_beside_names(finished: Path, tmp_path: Path) -> None:
    image = Image.open(finished / IMAGE).convert("RGB")
    for name, box in {"left": (0, 0, 100, 256), "right": (156, 0, 256, 256)}.items():
        (tmp_path / "mine" / name).mkdir(parents=True)
        for k in range(2):
            image.crop(box).save(tmp_path / "mine" / name / f"{k}.png")
    (tmp_path / "mine" / "left" / "notes.txt").write_text("no image")
    given = ("--boxes", "0,0,100,256", "--examples", tmp_path / "mine", "--out", tmp_path / "a.png")
    ran = predict(finished, *given, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["regions"][0]["name"] in ("left", "right")
    assert "1 undecodable" in ran.err
    refused = predict(finished, *given, "--classes", "leff,other")
    assert refused.code == 1
    assert "Did you mean left?" in refused.err
    absent = predict(finished, "--boxes", "0,0,9,9", "--examples", "nowhere")
    assert absent.code == 1
    assert "no examples at nowhere" in absent.err


def test_the_network_proposes_boxes_and_the_head_knows_its_classes(finished: Path, tmp_path: Path) -> None:
    ran = predict(finished, "--top", 5, "--out", tmp_path / "a.jpg", "--json")
    assert ran.code == 0, ran.err
    names = (finished / RUN / "classes.txt").read_text().splitlines()
    assert 0 < len(ran.json["regions"]) <= 5
    assert {region["name"] for region in ran.json["regions"]} <= set(names)


@pytest.mark.parametrize(
    ("options", "code", "found"),
    [
        (("--boxes", "1,2,3", "--classes", "a"), 2, "has 3 numbers a box"),
        (("--boxes", "a,b,c,d", "--classes", "a"), 2, "--boxes"),
        (("--boxes", "none.json", "--classes", "a"), 2, "none.json"),
        (("--boxes", "9,9,5,5", "--classes", "a"), 1, "[9.0, 9.0, 5.0, 5.0]"),
        (("--boxes", "nan,9,15,15", "--classes", "a"), 1, "nan"),
        (("--boxes", "9000,9,9100,15", "--classes", "a"), 1, "9000"),
        (("--boxes", "1,1,9,9", "--classes", " , "), 2, "names nothing"),
        (("--boxes", "1,1,9,9", "--out", "small.yaml/x.png"), 1, "small.yaml/x.png"),
        (("--boxes", "1,1,9,9", "--out", "x.unknown"), 1, "x.unknown"),
        (("--boxes", "1,1,9,9", "--report", "small.yaml/x.html"), 1, "small.yaml/x.html"),
        (("--checkpoint", "nowhere"), 2, "--checkpoint is given 2 times"),
        (("--set", "backbone=other.yaml"), 4, "clip.weights_sha256"),
    ],
)
def test_what_cannot_be_predicted(options: tuple[str, ...], code: int, found: str, finished: Path) -> None:
    ran = predict(finished, *options)
    assert ran.code == code, ran.err
    assert found in ran.error["error"]
    assert ran.error.get("expected") or ran.error.get("next")


def test_without_a_trained_head(finished: Path) -> None:
    error = rs_cache("predict", IMAGE, "--checkpoint", "nowhere", cwd=finished).error
    assert error["error"] == "There is no trained head in nowhere."
    assert "rs-cache train" in error["next"]


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
    (tmp_path / "config.json").touch()
    assert parse_classes(None, tmp_path) == ["cat", "big dog"]  # CLASSES_FILE of a model folder
    classes.unlink()
    with pytest.raises(MissingFileError):
        parse_classes(None, tmp_path)
    boxes.write_text("[[1, 2], [3]]")
    with pytest.raises(UsageError):
        parse_boxes(str(boxes))
