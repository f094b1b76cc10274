"""Every CLIP family by its own name through open_clip: towers, tokens and preprocessing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image

from regionspot_cache.backbones.clip import ClipBackbone
from regionspot_cache.backbones.clip_build import ClipParts, build_clip
from regionspot_cache.backbones.presets import ClipSpec
from regionspot_cache.errors import MissingFileError, UsageError
from tests.backbones.small import picture, tokenizer

CLIP_MEAN, HALF = (0.48145466, 0.4578275, 0.40821073), (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Family:
    """A member of a family and what is known of it from its authors."""

    model: str
    tag: str
    grid: int
    prefix: int
    width: int
    blocks: int
    mean: tuple[float, ...] = CLIP_MEAN
    interpolation: str = "bicubic"
    quick_gelu: bool = False


FAMILIES = {
    "openai": Family("ViT-B-32-quickgelu", "openai", 7, 1, 768, 12, quick_gelu=True),
    "laion": Family("ViT-H-14", "laion2b_s32b_b79k", 16, 1, 1280, 32),
    "metaclip": Family("ViT-B-16-quickgelu", "metaclip_fullcc", 14, 1, 768, 12, quick_gelu=True),
    "dfn": Family("ViT-H-14-378-quickgelu", "dfn5b", 27, 1, 1280, 32, quick_gelu=True),
    "eva": Family("EVA02-L-14-336", "merged2b_s6b_b61k", 24, 1, 1024, 24),
    "siglip2": Family("ViT-SO400M-16-SigLIP2-384", "webli", 24, 0, 1152, 27, HALF),
    "pe-core": Family("PE-Core-L-14-336", "meta", 24, 1, 1024, 24, HALF, "bilinear"),
    "pe-core-g": Family("PE-Core-bigG-14-448", "meta", 32, 0, 1536, 50, HALF, "bilinear"),
}
SMALL = {
    "native": "ViT-B-32-quickgelu",
    "eva": "EVA02-B-16",
    "siglip2": "ViT-B-32-SigLIP2-256",
    "pe-core": "PE-Core-T-16-384",
}


def outline(family: Family, weights: str, **more: object) -> ClipBackbone:
    """The full-size network without values."""
    spec = ClipSpec(model=family.model, weights=weights, precision="fp32", **more)
    return ClipBackbone(build_clip(spec, "meta"), spec, "meta")


def two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes all networks shallow, with few words."""
    config = open_clip.factory.get_model_config

    def cut(name: str) -> dict:
        cfg = config(name)
        cfg["text_cfg"] |= {"layers": 1, "vocab_size": 49408}
        cfg["vision_cfg"] |= {} if "timm_model_name" in cfg["vision_cfg"] else {"layers": 2}
        return cfg

    monkeypatch.setattr(open_clip.factory, "get_model_config", cut)
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depth=2))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_tokens_of_the_full_size(family: Family) -> None:
    clip = outline(family, "random:0")
    assert (clip.grid, clip.prefix_tokens) == ((family.grid, family.grid), family.prefix)
    assert clip.arrays["map"].shape == (family.prefix + family.grid**2, family.width)
    assert clip.blocks == (family.blocks - 1,)
    assert clip.parts.quick_gelu == family.quick_gelu
    clip_map = clip.encode(torch.empty(2, 3, clip.image_size, clip.image_size, device="meta"))["map"]
    assert clip_map.shape == (2, *clip.arrays["map"].shape)


@pytest.mark.parametrize("weights", ["tag", "file", "random"])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_preprocessing_is_that_of_the_tag_wherever_weights_come_from(
    family: Family, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    path.touch()
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda cfg, cache_dir: str(path))
    monkeypatch.setattr(open_clip.factory, "load_checkpoint", lambda *args, **kwargs: None)
    two_blocks(monkeypatch)
    clip = outline(family, {"tag": family.tag, "file": str(path), "random": "random:0"}[weights])
    assert clip.mean == pytest.approx(family.mean)
    assert clip.resize == family.interpolation
    assert clip.parts.std[0] == pytest.approx(0.5 if family.mean == HALF else 0.26862954)


def test_a_file_that_may_be_of_several_tags_needs_its_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    path.touch()
    monkeypatch.setattr(open_clip.factory, "load_checkpoint", lambda *args, **kwargs: None)
    spec = ClipSpec(model="ViT-L-14", weights=str(path))
    with pytest.raises(UsageError, match=r"laion2b_s32b_b82k have another[\s\S]*clip.tag"):
        build_clip(spec, "meta")
    assert build_clip(replace(spec, tag="laion2b_s32b_b82k"), "meta").mean == HALF
    with pytest.raises(UsageError, match="trained with QuickGELU"):
        build_clip(replace(spec, tag="openai"), "meta")
    with pytest.raises(UsageError, match=r"no clip\.tag 'nothing'"):
        build_clip(replace(spec, tag="nothing"), "meta")
    quick = build_clip(replace(spec, tag="openai", quick_gelu=True), "meta")
    assert (quick.mean, quick.quick_gelu) == (CLIP_MEAN, True)


@pytest.fixture(scope="module")
def shallow() -> Callable[..., ClipBackbone]:
    """Members of families with their own classes and widths, but two blocks and few words."""

    @cache
    def build(name: str, **spec: object) -> ClipParts:
        with pytest.MonkeyPatch.context() as patch:
            two_blocks(patch)
            parts = build_clip(ClipSpec(model=SMALL[name], weights="random:0", **spec))
        if name == "siglip2":  # its own would be fetched
            parts = replace(parts, tokenizer=partial(tokenizer(), context_length=64))
        with torch.no_grad():  # blocks that scale by a small number would hide each other
            for parameter in parts.model.visual.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape))
        return parts

    def make(name: str, layers: tuple[int, ...] = (-1,), **spec: object) -> ClipBackbone:
        whole = ClipSpec(model=SMALL[name], weights="random:0", precision="fp32", layers=layers, **spec)
        return ClipBackbone(build(name, **spec), whole)

    return make


@pytest.mark.parametrize("name", SMALL)
def test_maps_and_embeddings_are_those_of_the_family(name: str, shallow: Callable[..., ClipBackbone]) -> None:
    clip = shallow(name)
    visual = clip.model.visual
    blocks = visual.transformer.resblocks if name == "native" else visual.trunk.blocks
    seen: list[torch.Tensor] = []
    hook = blocks[-1].register_forward_hook(lambda module, args, out: seen.append(out))
    batch = clip.normalise(torch.stack([clip.preprocess(picture(40, 60, seed=i)) for i in range(2)]))
    with torch.no_grad():
        embedded = clip.model.encode_image(batch)
    hook.remove()
    found = clip.encode(batch)["map"]
    assert found.shape == seen[0].shape == (2, *clip.arrays["map"].shape)
    assert found.std() > 0.01
    torch.testing.assert_close(found, seen[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(clip.encode_image(batch), embedded)
    texts = ["a red star", "a"]
    with torch.no_grad():
        expected = clip.model.encode_text(clip.parts.tokenizer(texts))
    torch.testing.assert_close(clip.encode_text(texts), expected)
    assert expected.shape == embedded.shape
    assert clip.logit_scale > 1


@pytest.mark.parametrize("name", SMALL)
def test_the_fingerprint_has_what_tells_families_apart(
    name: str, shallow: Callable[..., ClipBackbone]
) -> None:
    clip, first = shallow(name), shallow(name, layers=(0,))
    facts = clip.fingerprint()
    assert (facts["model"], facts["map_block"], first.fingerprint()["map_block"]) == (SMALL[name], 1, 0)
    assert facts["tokens"].startswith(f"{clip.prefix_tokens} prefix")
    assert facts["mean"] == list(clip.mean)
    assert facts["preprocess"] == "squash, " + ("bilinear" if name == "pe-core" else "bicubic")
    assert facts["image_size"] == {"native": 224, "eva": 224, "siglip2": 256, "pe-core": 384}[name]


def test_pe_core_is_resized_bilinearly_to_half_range(shallow: Callable[..., ClipBackbone]) -> None:
    clip, image = shallow("pe-core"), picture(50, 90)
    squashed = Image.fromarray(image).resize((384, 384), Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(squashed)).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(clip.normalise(clip.preprocess(image)[None])[0], expected, rtol=0, atol=1e-5)


def test_another_resolution_changes_the_grid(shallow: Callable[..., ClipBackbone]) -> None:
    for name in ("native", "siglip2"):
        clip = shallow(name, image_size=128)
        assert clip.grid == (4, 4)
        batch = torch.randn(1, 3, 128, 128)
        assert clip.encode(batch)["map"].shape == (1, *clip.arrays["map"].shape)
        assert clip.fingerprint()["image_size"] == 128


def test_a_tokenizer_is_fetched_at_the_first_text_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    def without_transformers(*args: object, **kwargs: object) -> None:
        raise ImportError("No module named 'transformers'")

    two_blocks(monkeypatch)
    monkeypatch.setattr(open_clip, "get_tokenizer", offline)
    parts = build_clip(ClipSpec(model=SMALL["native"], weights="random:0"))
    with pytest.raises(MissingFileError, match="no route to host"):
        parts.tokenizer(["a"])
    monkeypatch.setattr(open_clip, "get_tokenizer", without_transformers)
    with pytest.raises(UsageError, match="uv pip install transformers"):
        parts.tokenizer(["a"])
