"""`rs-cache train --dataset`: labels of one's own, and the commands of docs/train-on-mine.md."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from regionspot_cache.reporting.review import Review, reviewed
from tests.running import rs_cache

PAGE = Path(__file__).parents[2] / "docs" / "train-on-mine.md"
COMMANDS = re.findall(r"```sh\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
RUN = Path("rs-cache-data/runs/small")
FEW = ("--set", "training.stages=[{steps: 3, learning_rate: 1.0e-3}]", "--set", "training.precision=fp32")
MINE = ("train", "--dataset", "mine.json", "--images", "photos")


def annotations(place: Path, images: int = 12) -> dict[str, Any]:
    """Of some images of the world, with two classes by the size of the box."""
    train = json.loads((place / "rs-cache-data/datasets/shapes/train.json").read_text())
    chosen = train["images"][:images]
    ids = {image["id"] for image in chosen}
    boxes = [
        {**a, "category_id": 1 + (a["area"] > 2000)} for a in train["annotations"] if a["image_id"] in ids
    ]
    return {
        "images": chosen,
        "annotations": boxes,
        "categories": [{"id": 1, "name": "bolt"}, {"id": 2, "name": "plate"}, {"id": 3, "name": "nut"}],
    }


def write(content: dict[str, Any]) -> None:
    Path("mine.json").write_text(json.dumps(content))


@pytest.fixture
def place(workplace: Path, finished: Path) -> Path:
    shutil.copytree(finished / RUN, workplace / RUN)
    (workplace / "photos").symlink_to(workplace / "rs-cache-data/datasets/shapes/images")
    write(annotations(workplace))
    return workplace


def test_the_page(place: Path) -> None:
    """Its commands one after the other, with small networks and few steps."""
    content = annotations(place)
    names = {category["id"]: category["name"] for category in content["categories"]}
    seen = {a["id"]: Review(action="accept", name=names[a["category_id"]]) for a in content["annotations"]}
    Path("mine-reviewed.json").write_text(json.dumps(reviewed(content, seen)))
    runs = []
    for command in COMMANDS:
        small = command.replace("runs/bl", str(RUN)).replace("--backbone bl", "--backbone small.yaml")
        ran = rs_cache(*shlex.split(small)[1:], *FEW)
        assert ran.code == 0, f"{small}\n{ran.err}"
        runs.append(ran)
    first, again, _, afresh, _ = runs
    assert "Trained head in rs-cache-data/runs/mine (3 steps" in first.out
    assert re.search(r"^gain +-?\d+\.\d \(", first.out, re.MULTILINE)
    facts = again.json
    assert facts["steps"] == facts["resumed_from"] == 3
    assert facts["cache"] == "rs-cache-data/caches/mine-small"
    assert facts["train"]["images"] + facts["held_out"]["images"] == 12
    assert facts["left_out"] == {"mine-small": {"held out": facts["held_out"]["images"]}}
    assert facts["before"]["of"] == str(RUN)
    for when in ("before", "after"):
        for value in (facts[when]["top1"], facts[when]["class_mean"]):
            assert 0 <= value["low"] <= value["value"] <= value["high"] <= 100
    gain = facts["after"]["top1"]["gain"]["value"]
    assert gain == pytest.approx(facts["after"]["top1"]["value"] - facts["before"]["top1"]["value"])
    assert "Before: clip-box." in afresh.out
    model = json.loads(Path("rs-cache-data/runs/mine/config.json").read_text())
    assert model["text"]["templates"] == "single"  # that of the initial head, as its options
    assert model["head"]["ffn_dim"] == 64
    assert Path("rs-cache-data/runs/mine/classes.txt").read_text().split() == ["bolt", "plate"]


def test_more_labels_are_extracted_another_split_is_another_run_and_none_is_said(place: Path) -> None:
    head = ("--init", RUN, *FEW, "--json")
    assert rs_cache(*MINE, *head).code == 0
    write(annotations(place, 16))
    ran = rs_cache(*MINE, *head)
    assert ran.code == 4, ran.err  # the folder has the head of fewer boxes
    ran = rs_cache(*MINE, *head, "--out", "more")
    assert ran.code == 0, ran.err
    assert ran.json["train"]["images"] + ran.json["held_out"]["images"] == 16
    ran = rs_cache(*MINE, *head, "--out", "more", "--set", "held_out.seed=1")
    assert ran.code == 4, "images that were trained on would be judged"
    ran = rs_cache(*MINE, *head, "--out", "all", "--set", "held_out.share=0")
    assert ran.code == 0, ran.err
    assert "no image is held out" in ran.err
    assert not {"before", "after", "held_out"} & set(ran.json)


def test_boxes_of_pictures_that_are_gone_are_left_out(place: Path) -> None:
    content = annotations(place)
    content["images"][3]["file_name"], content["images"][4]["file_name"] = "gone.jpg", "../../out.jpg"
    write(content)
    ran = rs_cache(*MINE, "--init", RUN, *FEW, "--json")
    assert ran.code == 0, ran.err
    assert "gone.jpg" in ran.err
    assert "leaves the image folder" in ran.err
    assert ran.json["after"]


def test_reviewed_boxes_alone_are_learned(place: Path) -> None:
    content = annotations(place)
    reviews = {}
    for box in content["annotations"][::2]:
        reviews[box["id"]] = Review(action="rename", name="bolt" if box["id"] % 3 else "plate")
    gone = content["annotations"][1]["id"]
    reviews[gone] = Review(action="reject")
    write(content)
    ran = rs_cache(*MINE, "--init", RUN, *FEW, "--reviewed")
    assert (ran.code, "has no reviews" in ran.err) == (1, True), ran.err
    write(reviewed(content, reviews))
    ran = rs_cache(*MINE, "--init", RUN, *FEW, "--reviewed", "--json")
    assert ran.code == 0, ran.err
    found = ran.json
    assert found["train"]["boxes"] + found["held_out"]["boxes"] == len(reviews) - 1
    assert f"{len(reviews) - 1} boxes were reviewed" in ran.err
    assert rs_cache("train", "--reviewed").code == 2


def one_class(content: dict[str, Any]) -> None:
    for box in content["annotations"]:
        box["category_id"] = 1


def no_boxes(content: dict[str, Any]) -> None:
    content["annotations"] = []


def no_category(content: dict[str, Any]) -> None:
    del content["annotations"][3]["category_id"]


@pytest.mark.parametrize(
    ("spoil", "found"),
    [(one_class, "one class, 'bolt'"), (no_boxes, "no box to learn from"), (no_category, "category_id")],
)
def test_labels_that_nothing_can_be_learned_from(spoil: Any, found: str, place: Path) -> None:
    content = annotations(place, 3)
    spoil(content)
    write(content)
    ran = rs_cache(*MINE, "--init", RUN, *FEW)
    assert ran.code == 1, ran.err
    assert found in ran.error["error"]
    assert ran.error["expected"]


@pytest.mark.parametrize(
    ("options", "code", "found"),
    [
        ((), 2, "No networks are named"),
        (("--init", "gone"), 1, "There is no folder gone"),
        (("--init", RUN, "--cache", "cache"), 2, "--dataset and --cache"),
        (("--init", RUN, "--set", "held_out.share=1"), 2, "held_out.share"),
        (("--init", RUN, "--backbone", "other.yaml"), 4, "weights_sha256"),
    ],
)
def test_options_that_do_not_fit(options: tuple, code: int, found: str, place: Path) -> None:
    ran = rs_cache(*MINE, *options, *FEW)
    assert ran.code == code, ran.err
    assert found in ran.error["error"]


def test_a_downloaded_head_cannot_name_code_to_run(place: Path) -> None:
    file = RUN / "backbone.yaml"
    text = file.read_text()
    file.write_text(re.sub(r"network: clip\b", "network: os.path:join", text))
    ran = rs_cache(*MINE, "--init", RUN, *FEW)
    assert ran.code in (1, 2), ran.err
    assert "os.path:join" in ran.error["error"]
