"""Every CLIP family in a finished cache by its own name: one command, and not a byte of the other part."""

import shutil
from functools import partial
from pathlib import Path

import open_clip
import pytest
import timm

from regionspot_cache.store import open_cache
from tests.conftest import BACKBONE
from tests.pipeline.test_rebuild import CACHE, hashes
from tests.running import rs_cache

# Family -> model, tag, prefix tokens, pixels, mean of the first channel, interpolation.
FAMILIES = {
    "openai": ("ViT-B-32-quickgelu", "openai", 1, 224, 0.48145466, "bicubic"),
    "laion": ("ViT-B-32", "laion2b_s34b_b79k", 1, 224, 0.48145466, "bicubic"),
    "metaclip": ("ViT-B-32-quickgelu", "metaclip_400m", 1, 224, 0.48145466, "bicubic"),
    "dfn": ("ViT-B-16-quickgelu", "dfn2b", 1, 224, 0.48145466, "bicubic"),
    "eva": ("EVA02-B-16", "merged2b_s8b_b131k", 1, 224, 0.48145466, "bicubic"),
    "siglip2": ("ViT-B-32-SigLIP2-256", "webli", 0, 256, 0.5, "bicubic"),
    "pe-core": ("PE-Core-T-16-384", "meta", 1, 384, 0.5, "bilinear"),
}


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `finished`; networks of their families' classes and widths, with two blocks and few words."""
    config = open_clip.factory.get_model_config

    def cut(name: str) -> dict:
        cfg = config(name)
        cfg["text_cfg"] |= {"layers": 1, "vocab_size": 64}
        cfg["vision_cfg"] |= {} if "timm_model_name" in cfg["vision_cfg"] else {"layers": 2}
        return cfg

    monkeypatch.setattr(open_clip.factory, "get_model_config", cut)
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depth=2))
    root = shutil.copytree(finished, tmp_path / "place")
    monkeypatch.chdir(root)
    return root


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_replaces_the_clip_part_only(family: str) -> None:
    model, tag, prefix, pixels, mean, interpolation = FAMILIES[family]
    old = 'clip: {network: clip, model: packaged, weights: "random:2", precision: fp32}'
    assert old in BACKBONE
    new = f'clip: {{network: clip, model: {model}, tag: {tag}, weights: "random:4", layers: [0]}}'
    Path("own.yaml").write_text(BACKBONE.replace(old, new))
    before = hashes(Path(CACHE))
    command = ("extract", "--backbone", "own.yaml", "--cache", CACHE, "--set", "partition_size=4")

    ran = rs_cache(*command, "--part", "clip", "--rebuild")

    assert ran.code == 0, ran.err
    after = hashes(Path(CACHE))
    kept = [name for name in before if name.startswith(("sam/", "plan/", "markers/sam/", "parts/sam"))]
    assert len(kept) > 10
    assert {name: after.get(name) for name in kept} == {name: before[name] for name in kept}
    rebuilt = open_cache(CACHE)
    found = rebuilt.parts["clip"].fingerprint
    assert (found["model"], found["map_block"], found["image_size"]) == (model, 0, pixels)
    assert found["tokens"].startswith(f"{prefix} prefix first")
    assert (found["mean"][0], found["preprocess"]) == (mean, f"squash, {interpolation}")
    assert found["quick_gelu"] == model.endswith("-quickgelu")
    patch = int(model.split("-")[2]) if model.startswith("ViT") else 16
    assert rebuilt.read("clip/map", 0).shape[0] == prefix + (pixels // patch) ** 2
