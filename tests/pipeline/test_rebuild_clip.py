"""Another CLIP family for a finished cache: one command, nothing of the other part, and a head on it."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm

from regionspot_cache.backbones import ClipSpec, load_clip, load_preset
from regionspot_cache.store import open_cache
from tests.conftest import BACKBONE
from tests.pipeline.test_rebuild import CACHE, HEAD, hashes
from tests.running import Ran, rs_cache

WIDTH, GRID = 48, 4
TEXT = {"context_length": 64, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 1}


def siglip_folder(folder: Path) -> None:
    """SigLIP 2's own classes, small: no class token, a pooling head, a bias beside the logit scale."""
    config = open_clip.get_model_config("ViT-B-16-SigLIP2")
    text = {k: v for k, v in config["text_cfg"].items() if not k.startswith(("hf_", "tokenizer"))} | TEXT
    values = {
        "model_cfg": config | {"embed_dim": WIDTH, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"},
    }
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(values))


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `finished`, beside a small SigLIP and a backbone file that differs in the CLIP side alone."""
    root = shutil.copytree(finished, tmp_path / "place")
    small = partial(timm.create_model, embed_dim=WIDTH, depth=2, num_heads=2)
    monkeypatch.setattr(timm, "create_model", small)
    siglip_folder(root / "siglip")
    text = BACKBONE.replace("name: small", "name: siglip")
    old = 'clip: {network: clip, model: packaged, weights: "random:2", precision: fp32}'
    assert old in text
    new = f'clip: {{network: clip, model: "local-dir:siglip", weights: "random:4", image_size: {16 * GRID}}}'
    (root / "siglip.yaml").write_text(text.replace(old, new))
    monkeypatch.chdir(root)
    return root


def rebuild(*more: str) -> Ran:
    own = ("--backbone", "siglip.yaml", "--cache", CACHE, "--set", "partition_size=4")
    return rs_cache("extract", *own, "--part", "clip", *more)


@pytest.mark.usefixtures("place")
def test_another_clip_replaces_the_clip_part_only_and_serves_a_new_head() -> None:
    cache = Path(CACHE)
    before, tokens = hashes(cache), open_cache(cache).read("sam/transformer", 0)
    refused = rebuild()
    assert refused.code == 4
    assert "--part clip --rebuild" in refused.error["next"]
    assert hashes(cache) == before

    ran = rebuild("--rebuild")
    assert ran.code == 0, ran.err
    after = hashes(cache)
    kept = {
        name: found for name, found in before.items() if name.startswith(("sam/", "plan/", "markers/sam/"))
    }
    assert len(kept) > 10
    assert kept == {name: after.get(name) for name in kept}
    assert rs_cache("verify", cache, "--full").code == 0

    clip = load_clip(load_preset("siglip.yaml").first(ClipSpec))
    assert (clip.prefix_tokens, clip.arrays["map"].shape) == (0, (GRID * GRID, WIDTH))
    rebuilt = open_cache(cache, expect={"clip": clip.fingerprint()})
    assert rebuilt.read("clip/map", 0).shape == clip.arrays["map"].shape
    np.testing.assert_array_equal(rebuilt.read("sam/transformer", 0), tokens)
    train_and_recognise(cache)


def train_and_recognise(cache: Path) -> None:
    """The old head is refused; a new one has no prefix token, and its attention is drawn."""
    old = rs_cache("eval", "--checkpoint", HEAD, "--dataset", "shapes:val", "--backbone", "siglip.yaml")
    assert old.code == 4
    assert "was made with clip." in old.error["error"]
    trained = rs_cache("train", "--config", "train.yaml", "--set", "backbone=siglip.yaml", "--out", "new")
    assert trained.code == 0, trained.err
    head = json.loads(Path("new/config.json").read_text())["head"]
    assert (head["maps"], head["map_dim"]) == ([[0, GRID, GRID]], WIDTH)

    methods = ("--method", "regionspot", "--method", "clip-box")
    evaluated = rs_cache(
        "eval", "--checkpoint", "new", "--dataset", "shapes:val", *methods, "--limit", "3", "--out", "found"
    )
    assert evaluated.code == 0, evaluated.err
    image = next(Path("rs-cache-data/datasets/shapes").rglob("*.jpg"))
    arguments = ("--boxes", "10,10,60,60", "--classes", "red star,blue ring", "--checkpoint", "new")
    predicted = rs_cache("predict", image, *arguments, "--out", "seen.png")
    assert predicted.code == 0, predicted.err
    assert Path("seen-attention.png").is_file()
