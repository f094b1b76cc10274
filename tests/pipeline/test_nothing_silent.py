"""Nothing is assumed in silence: networks that nobody named, the demo's folder for a run of one's own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import VERBS
from pipeline.options import load, options_of
from tests.running import rs_cache

SHAPES = Path("rs-cache-data/datasets/shapes")
IMAGE = SHAPES / "images/val/000001.jpg"
KNOWS = "know drawn shapes only"


@pytest.fixture
def photographs(workplace: Path) -> Path:
    """A file of annotated pictures that are not the built-in world by name."""
    content = json.loads((SHAPES / "val.json").read_text())
    for image in content["images"]:
        image["file_name"] = Path(image["file_name"]).name
    shutil.copytree(SHAPES / "images" / "val", "photos")
    Path("photos.json").write_text(json.dumps(content))
    shutil.copy(IMAGE, "photo.jpg")
    return workplace


@pytest.mark.parametrize(
    "arguments",
    [
        ("extract", "--dataset", "photos.json"),
        ("extract", "--dataset", "lvis"),
        ("eval", "--dataset", "photos.json"),
        ("eval", "--dataset", "photos.json", "--method", "clip-box", "--method", "results:photos.json"),
        ("predict", "photo.jpg"),
    ],
)
def test_photographs_need_networks_that_somebody_named(arguments: tuple[str, ...], photographs: Path) -> None:
    ran = rs_cache(*arguments, "--json")
    assert ran.code == 2
    assert KNOWS in ran.error["error"]
    assert "bb, bl or bl336" in ran.error["expected"]
    assert ran.json["error"]["exit_code"] == 2


@pytest.mark.parametrize(
    "how", [("--backbone", "tiny"), ("--set", "backbone=tiny"), ("--config", "own.yaml")]
)
def test_named_they_run_with_one_loud_warning(how: tuple[str, str], photographs: Path) -> None:
    Path("own.yaml").write_text("backbone: tiny")
    limit = ("--images", "photos", "--limit", "1", "--part", "clip")
    ran = rs_cache("extract", "--dataset", "photos.json", *limit, *how)
    assert ran.code == 0, ran.err
    assert sum(KNOWS in line and line.startswith("warning: ") for line in ran.err.splitlines()) == 1


def test_the_networks_of_a_named_checkpoint_are_named(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / IMAGE, tmp_path / "photo.jpg")
    run = finished / "rs-cache-data/runs/small"
    box = ("--boxes", "10,10,60,60", "--out", tmp_path / "out.png")
    ran = rs_cache("predict", tmp_path / "photo.jpg", "--checkpoint", run, *box)
    assert ran.code == 0, ran.err
    assert KNOWS in ran.err
    inside = rs_cache("predict", finished / IMAGE, "--checkpoint", run, *box)
    assert inside.code == 0, inside.err
    assert KNOWS not in inside.err


def test_the_built_in_world_needs_no_name(workplace: Path) -> None:
    for arguments in (("eval",), ("predict", IMAGE)):  # there is no head yet
        error = rs_cache(*arguments).error["error"]
        assert "no trained head" in error
        assert KNOWS not in error


def train_settings(**given: Any) -> Any:
    command: Any = VERBS["train"]
    return load(command.settings, options_of(command.settings), given, command.defaults)


def test_a_run_of_ones_own_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    demo = Path("rs-cache-data/runs/shapes")
    for name in ("street", "shapes", "said"):
        Path(f"{name}.yaml").write_text("training: {seed: 3}" + ("\nout: there" if name == "said" else ""))
    assert train_settings().out == demo
    assert train_settings(set_=["training.seed=3"]).out == demo
    assert train_settings(caches=["rs-cache-data/caches/shapes-train-tiny"]).out == demo
    assert train_settings(config=["street.yaml"]).out == Path("rs-cache-data/runs/street")
    assert train_settings(config=["shapes.yaml"]).out == Path("rs-cache-data/runs/shapes-own")
    assert train_settings(config=["said.yaml"]).out == Path("there")
    assert train_settings(caches=["a/one/", "s3://b/two"]).out == Path("rs-cache-data/runs/one+two")
    assert train_settings(caches=["my/shapes"]).out == Path("rs-cache-data/runs/shapes-own")
    assert train_settings(caches=["a"], out=["mine"]).out == Path("mine")
    assert train_settings(set_=["caches=[a/b]"]).out == Path("rs-cache-data/runs/b")
    assert train_settings(config=["train/bl.yaml"]).out == Path("rs-cache-data/runs/bl")


@pytest.mark.parametrize(
    "arguments",
    [
        ("eval", "--proposals", "gt", "--proposals", "rpn"),
        ("train", "--out", "a", "--out", "b"),
        ("extract", "--limit", "1", "--limit", "2"),
        ("predict", "x.jpg", "--config", "a", "--config", "b"),
        ("reproduce", "--world", "shapes", "--world", "paper"),
    ],
)
def test_what_is_said_twice_is_refused(arguments: tuple[str, ...], workplace: Path) -> None:
    ran = rs_cache(*arguments)
    assert ran.code == 2
    assert "is given 2 times" in ran.error["error"]
