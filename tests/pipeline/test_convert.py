"""`rs-cache import`, `export`, `push` and `eval --method official`, without released weights or network."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch

from regionspot_cache.backbones import Backbone, BackboneSpec, ClipSpec, SamSpec, load_preset
from regionspot_cache.errors import IdentityError, MissingFileError
from regionspot_cache.models.official import export_official, read_official
from regionspot_cache.recognition.predictor import require_backbone
from regionspot_cache.training.head import HeadConfig, RegionHead, read_model_config
from tests.backbones.small import small_clip, small_sam
from tests.running import rs_cache

RUN = Path("rs-cache-data/runs/small")
PLAIN = ("--set", "pictures=0", "--set", "masks=false")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like a released one for ViT-B/16, of one layer."""
    config = HeadConfig(token_dim=256, map_dim=768, text_dim=512, maps=((1, 14, 14),), depth=1)
    path = tmp_path_factory.mktemp("released") / "regionspot_bb.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        export_official(RegionHead(config), path)
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(spec: BackboneSpec, **_: object) -> Backbone:
        raise MissingFileError(f"The weights of {spec.first(ClipSpec).model} could not be fetched.")

    monkeypatch.setattr("pipeline.convert.load_backbone", fails)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """Small networks in the place of the named ones."""
    spec = load_preset("bb")
    clip = small_clip(model=spec.first(ClipSpec).model, resize="bilinear-noantialias")
    backbone = Backbone({"sam": small_sam(model=spec.first(SamSpec).model), "clip": clip}, spec)
    monkeypatch.setattr("pipeline.convert.load_backbone", lambda *_, **__: backbone)
    return backbone


@pytest.mark.usefixtures("offline")
def test_a_checkpoint_goes_in_and_out_unchanged(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = rs_cache("import", released, "--backbone", "bb", "--json")
    assert ran.code == 0, ran.err
    folder = Path("rs-cache-data/runs/regionspot_bb")
    assert ran.json["folder"] == str(folder)
    assert ran.json["tensors"] == 24
    assert sorted(p.name for p in folder.iterdir() if p.name != ".lock") == [
        "README.md",
        "backbone.yaml",
        "config.json",
        "model.safetensors",
    ]
    assert "regionspot_bb.pth" in (folder / "README.md").read_text()
    spec = load_preset(folder / "backbone.yaml", from_model_folder=True)
    clip = spec.first(ClipSpec)
    assert (spec.first(SamSpec).model, clip.model) == ("vit_b", "ViT-B-16-quickgelu")
    assert clip.resize == "bilinear-noantialias"
    ran = rs_cache("export", folder, "--out", "back/regionspot.pth", "--json")
    assert (ran.code, ran.json["tensors"], ran.err) == (0, 24, "")
    before, after = read_official(released), read_official("back/regionspot.pth")
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_is_not_known_is_not_claimed(
    released: Path, tmp_path: Path, offline: None, online_facts: dict[str, Any]
) -> None:
    ran = rs_cache("import", released, "--backbone", "bb", "--out", tmp_path / "run")
    assert ran.code == 0
    assert "without fingerprints" in ran.err
    config = read_model_config(tmp_path / "run")
    assert "only their names" in config["imported_from"]["networks"]
    assert set(config["networks"]) == {"sam", "clip"}
    for part, facts in config["networks"].items():
        assert facts["model"]
        assert "weights_sha256" not in facts
        assert facts.items() <= online_facts[part].items()
    assert config["inputs"] == {"query": "sam/transformer", "memory": ["clip/map"]}
    assert "encoder" not in config["text"]


@pytest.fixture
def online_facts() -> dict[str, Any]:
    """Fingerprints of networks of the right names, whatever their weights."""
    clip = small_clip(model="ViT-B-16-quickgelu", resize="bilinear-noantialias")
    return {"sam": small_sam(model="vit_b").fingerprint(), "clip": clip.fingerprint()}


def test_networks_at_hand_are_recorded_and_required(released: Path, tmp_path: Path, online: Backbone) -> None:
    assert rs_cache("import", released, "--backbone", "bb", "--out", tmp_path / "run").code == 0
    config = read_model_config(tmp_path / "run")
    assert config["networks"] == {name: part.fingerprint() for name, part in online.parts.items()}
    assert config["imported_from"]["networks"] == "loaded and recorded"
    assert config["text"]["encoder"]["weights_sha256"]
    require_backbone(config, online, "run")
    clip = small_clip(seed=3, model="ViT-B-16-quickgelu", resize="bilinear-noantialias")
    other = Backbone({**online.parts, "clip": clip}, online.spec)
    with pytest.raises(IdentityError, match=r"clip\.weights_sha256"):
        require_backbone(config, other, "run")


@pytest.mark.usefixtures("offline")
def test_import_refuses_what_does_not_fit(released: Path, tmp_path: Path) -> None:
    assert rs_cache("import", released).code == 2
    ran = rs_cache("import", released, "--backbone", "bl", "--out", tmp_path / "run")
    assert ran.code == 4
    assert "--backbone bb" in ran.error["next"]
    assert rs_cache("import", released, "--backbone", "tiny", "--out", tmp_path / "run").code == 2
    assert rs_cache("import", tmp_path / "none.pth", "--backbone", "bb").code == 1
    assert not (tmp_path / "run").exists()
    assert rs_cache("import", released, "--backbone", "bb", "--out", tmp_path / "run").code == 0
    ran = rs_cache("import", released, "--backbone", "bb", "--out", tmp_path / "run")
    assert ran.code == 1
    assert "holds a model already" in ran.error["error"]


def test_export_refuses_other_networks(finished: Path, tmp_path: Path) -> None:
    ran = rs_cache("export", finished / RUN, "--out", tmp_path / "a.pth")
    assert ran.code == 2
    assert "no released head" in ran.error["error"]
    assert not (tmp_path / "a.pth").exists()
    assert rs_cache("export", tmp_path, "--out", tmp_path / "a.pth").code == 1


@dataclass
class FakeApi:
    """Records what is uploaded."""

    pushed: dict[str, Any]

    def create_repo(self, repo_id: str, **options: Any) -> str:
        self.pushed |= {"repo": repo_id, **options}
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, folder_path: Path, **_: Any) -> None:
        self.pushed["card"] = (Path(folder_path) / "README.md").read_text()


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    pushed: dict[str, Any] = {}
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token: FakeApi(pushed))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "secret")
    return pushed


def test_push_sends_a_model_with_its_metrics(finished: Path, tmp_path: Path, pushed: dict[str, Any]) -> None:
    run = shutil.copytree(finished / RUN, tmp_path / "run")
    metrics = tmp_path / "metrics.json"
    result = {"protocol": {"dataset": "shapes"}, "metrics": {"box": {"AP": 0.5}}}
    metrics.write_text(json.dumps({"results": [result]}))
    ran = rs_cache("push", run, "me/street", "--private", "--metrics", metrics, "--json")
    assert ran.code == 0, ran.err
    assert ran.json == {"address": "https://hub/me/street"}
    assert (pushed["repo"], pushed["private"]) == ("me/street", True)
    assert "box: AP 50.0 (dataset shapes)" in pushed["card"]
    (run / "README.md").write_text("my own words")
    assert rs_cache("push", run, "me/street").code == 0
    assert pushed["card"] == "my own words"


def test_push_refuses_what_others_could_not_load(
    finished: Path, tmp_path: Path, pushed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(finished / RUN, tmp_path / "run")
    assert rs_cache("push", tmp_path, "me/street").code == 1
    assert rs_cache("push", run, "street").code == 2
    (tmp_path / "metrics.json").write_text("{}")
    ran = rs_cache("push", run, "me/street", "--metrics", tmp_path / "metrics.json")
    assert (ran.code, "no results" in ran.error["error"]) == (1, True)
    config = json.loads((run / "config.json").read_text())
    config["head"]["text_dim"] += 1
    (run / "config.json").write_text(json.dumps(config))
    assert rs_cache("push", run, "me/street").code == 4
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    ran = rs_cache("push", finished / RUN, "me/street")
    assert (ran.code, "hf auth login" in ran.error["next"]) == (1, True)
    assert pushed == {}


def test_push_warns_of_files_that_others_do_not_have(
    finished: Path, tmp_path: Path, pushed: dict[str, Any]
) -> None:
    run = shutil.copytree(finished / RUN, tmp_path / "run")
    text = (run / "backbone.yaml").read_text()
    weights = run / "model.safetensors"
    (run / "backbone.yaml").write_text(text.replace("random:1", str(weights)))
    ran = rs_cache("push", run, "me/street")
    assert ran.code == 0
    assert "only this machine has" in ran.err
    assert pushed["repo"] == "me/street"


def test_the_official_path_beside_ours_in_one_run(finished: Path, tmp_path: Path) -> None:
    methods = ("--method", "regionspot", "--method", "official")
    options = ("--checkpoint", RUN, "--limit", "2", "--out", tmp_path, "--json", *PLAIN)
    ran = rs_cache("eval", *methods, *options, cwd=finished)
    assert ran.code == 0, ran.err
    ours, theirs = ran.json["results"]
    assert "official on small" in theirs["protocol"]["method"]
    assert str(RUN) in theirs["protocol"]["method"]
    detections = [
        json.loads((tmp_path / f"{name}-bbox.json").read_text()) for name in ("regionspot", "official")
    ]
    scores = [np.array([row["score"] for row in rows]) for rows in detections]
    assert all(np.isfinite(values).all() for values in scores)
    assert not np.array_equal(*scores)
    assert set(ours["metrics"]) == set(theirs["metrics"])
