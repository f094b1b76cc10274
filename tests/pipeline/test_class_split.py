"""Transfer: a head learns base classes alone, and one evaluation asks it for base and novel ones."""

import json
from pathlib import Path

import pytest
import yaml

from regionspot_cache.datasets import load_dataset
from tests.running import rs_cache


@pytest.fixture
def split(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three base classes and two novel ones, of those that the training images of `finished` show."""
    monkeypatch.chdir(finished)
    dataset = load_dataset("shapes:val", data_root=Path("rs-cache-data/datasets"))
    trained = load_dataset("shapes:train", data_root=Path("rs-cache-data/datasets"))
    shown = sorted({trained.class_names[label] for label in trained.labels})
    asked = sorted({dataset.class_names[label] for label in dataset.labels} - set(shown[:3]))
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"base": shown[:3], "novel": asked[:2]}))
    return file


def test_a_head_of_base_classes_is_asked_for_all(split: Path, tmp_path: Path) -> None:
    said = yaml.safe_load(split.read_text())
    own = ("--set", f"class_split={split}")
    steps = ("--set", "training.stages=[{name: a, steps: 2}]")
    ran = rs_cache("train", "--config", "train.yaml", "--out", tmp_path / "run", *own, *steps)
    assert ran.code == 0, ran.err
    assert "3 base classes" in ran.err
    assert set((tmp_path / "run/classes.txt").read_text().splitlines()) == set(said["base"])
    shown = ("--set", "pictures=0", "--json", "--out", tmp_path / "eval")
    ran = rs_cache("eval", "--checkpoint", tmp_path / "run", *own, *shown)
    assert ran.code == 0, ran.err
    [row] = ran.json["results"]
    assert "5 classes of" in row["protocol"]["split"]
    assert {"AP novel", "AP base"} <= set(row["metrics"]["box"])
    found = json.loads((tmp_path / "eval/regionspot-bbox.json").read_text())
    whole = load_dataset("shapes:val", data_root=Path("rs-cache-data/datasets"))
    names = dict(zip(whole.category_ids.tolist(), whole.class_names, strict=True))
    assert {names[d["category_id"]] for d in found} <= {*said["base"], *said["novel"]}


def test_a_split_of_other_classes_is_refused(finished: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(finished)
    ran = rs_cache("eval", "--checkpoint", "rs-cache-data/runs/small", "--set", "class_split=coco-ovd")
    assert ran.code == 1
    assert "lacks 48 of the 48 classes, first 'person'" in ran.err
