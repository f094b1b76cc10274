"""The code of the pages "add a dataset", "add a network" and "add a loss", as it stands there."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from regionspot_cache.backbones import SamSpec, load_preset
from regionspot_cache.config import validate
from regionspot_cache.datasets import catalog, load_dataset
from regionspot_cache.datasets.sources import Source
from regionspot_cache.training import objectives, train
from regionspot_cache.training.losses import box_weights
from regionspot_cache.yaml_text import parse_yaml
from tests.running import rs_cache
from tests.training.fake import make_config, make_source

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "docs", "exec"), names)
    return names


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures, a class list and a text file a picture, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("a", "0 0.5 0.5 0.5 0.2\n"), ("b", "1 0.25 0.25 0.5 0.5\n0 0.5 0.5 1 1\n")):
        for folder in ("photos", "labels"):
            Path(folder).mkdir(exist_ok=True)
        Image.new("RGB", (40, 30)).save(f"photos/{name}.jpg")
        Path(f"labels/{name}.txt").write_text(text)
    Path("classes.txt").write_text("cat\nblack dog\n")
    return tmp_path


def test_the_converter_of_a_dataset(photos: Path) -> None:
    run(blocks("add-a-dataset.md", "python")[0])
    dataset = load_dataset("my.json", data_root=photos, images=Path("photos"))
    assert dataset.class_names == ("cat", "black dog")
    np.testing.assert_allclose(dataset[0].boxes, [[10, 12, 30, 18]])
    assert [dataset.class_names[label] for label in dataset[1].labels] == ["black dog", "cat"]
    np.testing.assert_allclose(dataset[1].boxes, [[0, 0, 20, 15], [0, 0, 40, 30]])
    assert not dataset.dropped


def test_the_name_of_a_dataset(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [converter], [entry] = blocks("add-a-dataset.md", "python"), blocks("add-a-dataset.md", "yaml")
    [(name, values)] = parse_yaml(entry).items()
    added = {name: validate(Source, values, "the page")}
    monkeypatch.setattr(catalog, "SOURCES", catalog.SOURCES | added)
    monkeypatch.setattr(catalog, "DATASET_NAMES", (*catalog.DATASET_NAMES, *added))
    run(converter)
    place = photos / "data" / "animals"
    (place / "val").mkdir(parents=True)
    Path("my.json").rename(place / "animals_val.json")
    for photo in Path("photos").iterdir():
        photo.rename(place / "val" / photo.name)
    dataset = load_dataset("animals:val", data_root=photos / "data")
    assert (len(dataset), dataset.name, dataset.split) == (2, "animals", "val")


def test_the_backbone_file_of_a_network(tmp_path: Path) -> None:
    [text] = blocks("add-a-network.md", "yaml")
    path = tmp_path / "sam2.1-b32.yaml"
    path.write_text(text)
    spec = load_preset(path)
    assert (spec.name, spec.first(SamSpec).model) == ("sam2.1-b32", "sam2.1-hiera-tiny")
    ran = rs_cache("backbones", path, "--json")
    assert ran.code == 0, ran.err
    assert "sam2.1-b32" in json.dumps(ran.json)


def test_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = blocks("add-a-loss.md", "python")
    loss = run(code)["region_cross_entropy"]
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels, weights = torch.tensor([0, 1, 4]), torch.from_numpy(box_weights(np.array([1, 2]), images=2))
    each = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(loss(logits, labels, weights), each[0] / 2 + each[1:].sum() / 4)
    shares = loss(logits[:1], labels[:1], weights[:1]) + loss(logits[1:], labels[1:], weights[1:])
    torch.testing.assert_close(shares, loss(logits, labels, weights))

    ignore = torch.zeros(3, 5, dtype=torch.bool)
    ignore[:, 1] = True
    loss(logits, labels, weights, ignore=ignore).backward()
    assert (logits.grad[:, 1] != 0).tolist() == [False, True, False]

    def instead(logits: Any, labels: Any, weights: Any, *, ignore: Any, **_: Any) -> Any:
        return loss(logits, labels, weights, ignore=ignore)

    monkeypatch.setattr(objectives, "region_loss", instead)
    train([make_source()], make_config(12), tmp_path)
    steps = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) >= 2
    assert np.isfinite(steps).all()
