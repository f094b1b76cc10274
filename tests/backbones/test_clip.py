"""The CLIP side against open_clip's own forward passes."""

import json

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from regionspot_cache.backbones.clip import ClipBackbone
from regionspot_cache.backbones.clip_build import build_clip
from regionspot_cache.backbones.presets import ClipSpec
from regionspot_cache.errors import InputError, MissingFileError, RegionSpotError, UsageError
from tests.backbones.small import VISION, picture, small_clip

TIMM = {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": "token", "timm_proj": "linear"}


@pytest.fixture(scope="module")
def clip() -> ClipBackbone:
    return small_clip()


def outputs_of(module: torch.nn.Module, clip: ClipBackbone, batch: torch.Tensor) -> torch.Tensor:
    """What `module` gives while open_clip encodes the images."""
    seen = []
    hook = module.register_forward_hook(lambda m, args, out: seen.append(out))
    with torch.no_grad():
        clip.model.encode_image(batch)
    hook.remove()
    return seen[0]


def images(clip: ClipBackbone, count: int = 2) -> torch.Tensor:
    return clip.normalise(torch.stack([clip.preprocess(picture(60, 40 + i, seed=i)) for i in range(count)]))


def test_map_is_the_transformer_output_before_the_final_norm(clip: ClipBackbone) -> None:
    batch = images(clip)
    found = clip.encode(batch)["map"]
    expected = outputs_of(clip.model.visual.transformer, clip, batch)
    assert (found - expected).abs().max() < 1e-4
    assert found.shape == (2, *clip.arrays["map"].shape) == (2, 10, 32)
    assert (clip.grid, clip.prefix_tokens) == ((3, 3), 1)


@pytest.mark.parametrize(("layer", "block"), [(0, 0), (-2, 1), (-1, 2)])
def test_the_layer_can_be_chosen(layer: int, block: int) -> None:
    clip = small_clip(layers=(layer,))
    batch = images(clip)
    expected = outputs_of(clip.model.visual.transformer.resblocks[block], clip, batch)
    torch.testing.assert_close(clip.encode(batch)["map"], expected, rtol=0, atol=1e-5)
    assert clip.fingerprint()["map_block"] == block


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="3 blocks"):
        small_clip(layers=(3,))


def test_timm_tower_gives_class_token_first() -> None:
    clip = small_clip(vision=TIMM)
    batch = torch.randn(2, 3, 160, 160)
    expected = outputs_of(clip.model.visual.trunk.blocks[-1], clip, batch)
    torch.testing.assert_close(clip.encode(batch)["map"], expected, rtol=0, atol=1e-5)
    assert clip.prefix_tokens == 1


def test_a_tower_without_class_token_gives_the_grid_alone() -> None:
    clip = small_clip(vision=TIMM | {"timm_model_name": "test_vit_relpos", "timm_pool": "avg"})
    clip_map = clip.encode(torch.randn(1, 3, 160, 160))["map"]
    assert clip_map.shape == (1, *clip.arrays["map"].shape)
    assert (clip.arrays["map"].shape[0], clip.prefix_tokens) == (100, 0)


@pytest.mark.parametrize(
    "vision",
    [
        {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16},
        TIMM | {"timm_model_name": "test_convnext", "timm_pool": "avg"},
    ],
    ids=["resnet", "convnext"],
)
def test_convolutional_towers_are_refused(vision: dict) -> None:
    with pytest.raises(UsageError, match="no fixed grid"):
        small_clip(vision=vision)


def test_embeddings_are_those_of_open_clip(clip: ClipBackbone) -> None:
    batch = images(clip)
    texts = [f"a photo of thing {i}" for i in range(300)]  # more than one batch
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_image(batch), clip.model.encode_image(batch))
        tokens = open_clip.SimpleTokenizer()(texts)
        torch.testing.assert_close(clip.encode_text(texts), clip.model.encode_text(tokens), atol=1e-5, rtol=0)
    assert clip.encode_text([""]).shape[1] == clip.encode_image(batch).shape[1] == 24


def test_texts_of_all_lengths_are_embedded_without_what_follows_their_end(clip: ClipBackbone) -> None:
    texts = ["red " * n for n in (3, 100, 0, 7, 3)]  # the second is cut to the context
    ids = open_clip.SimpleTokenizer()(texts)
    with torch.no_grad():
        expected = clip.model.encode_text(ids)
    torch.testing.assert_close(clip.encode_text(texts), expected, atol=1e-5, rtol=0)
    seen: list[tuple[int, ...]] = []
    hook = clip.model.transformer.register_forward_hook(lambda m, args, out: seen.append(tuple(out.shape)))
    clip.encode_text([texts[0], texts[3]])
    hook.remove()
    assert [shape[:2] for shape in seen] == [(2, 1 + 7 + 1)]


def test_preprocess_squashes_with_pil(clip: ClipBackbone) -> None:
    image = picture(50, 90)
    squashed = Image.fromarray(image).resize((48, 48), Image.Resampling.BICUBIC)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    expected = (torch.from_numpy(np.array(squashed)) / 255 - mean) / std
    pixels = clip.preprocess(image)
    assert pixels.dtype == torch.uint8
    torch.testing.assert_close(clip.normalise(pixels[None])[0], expected.permute(2, 0, 1))


def test_preprocess_can_follow_the_official_predictor() -> None:
    clip = small_clip(resize="bilinear-noantialias")
    image = picture(200, 90)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    expected = F.interpolate(pixels, (48, 48), mode="bilinear", align_corners=False)[0]
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    torch.testing.assert_close(clip.preprocess(image), (expected - mean) / std, rtol=0, atol=1e-5)


@pytest.mark.parametrize("resize", ["auto", "bilinear", "bilinear-noantialias"])
def test_extreme_shapes_stay_finite(resize: str) -> None:
    clip = small_clip(resize=resize)
    for size in [(1, 20_000), (20_000, 2), (1, 1)]:
        pixels = clip.preprocess(picture(*size))
        assert pixels.shape == (3, 48, 48)
        assert pixels.isfinite().all()


def test_fingerprints_follow_what_decides_the_values() -> None:
    base = small_clip()
    assert json.loads(json.dumps(base.fingerprint())) == base.fingerprint() == small_clip().fingerprint()
    others = [
        small_clip(seed=1),
        small_clip(resize="bilinear"),
        small_clip(layers=(0,)),
        small_clip(precision="bf16"),
    ]
    for other in others:
        assert other.fingerprint() != base.fingerprint()
    assert small_clip(seed=1).text_fingerprint() != base.text_fingerprint()
    assert small_clip(resize="bilinear", layers=(0,)).text_fingerprint() == base.text_fingerprint()


def test_image_and_text_weights_have_their_own_fingerprints() -> None:
    changed = small_clip()
    with torch.no_grad():
        changed.model.visual.ln_pre.weight.add_(1)
    base = small_clip()
    assert changed.fingerprint() != base.fingerprint()
    assert changed.text_fingerprint() == base.text_fingerprint()


def test_openai_weights_need_quick_gelu() -> None:
    with pytest.raises(UsageError, match="ViT-L-14-quickgelu"):
        build_clip(ClipSpec(model="ViT-L-14", weights="openai"))
    with pytest.raises(UsageError, match="model ViT-B-32, without"):
        build_clip(ClipSpec(model="ViT-B-32", weights="laion2b_s34b_b79k", quick_gelu=True))


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        ({"model": "ViT-nothing"}, UsageError, "no model"),
        ({"model": "ViT-B-16-quickgelu", "weights": "nothing"}, UsageError, "One of openai"),
        ({"model": "ViT-B-16", "weights": "no/such/file.pt"}, MissingFileError, "no/such/file.pt"),
        ({"model": "ViT-B-16", "weights": "random:x"}, UsageError, "random:SEED"),
        ({"model": "hf-hub:a/b", "weights": "openai"}, UsageError, "brings its own"),
    ],
)
def test_specs_that_make_no_sense_are_explained(spec: dict, error: type[RegionSpotError], text: str) -> None:
    with pytest.raises(error, match=text):
        build_clip(ClipSpec(**spec))


def test_weights_that_cannot_be_fetched_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Failed to download weights: no route to host")

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(MissingFileError, match=r"no route to host[\s\S]*clip.weights as the path"):
        build_clip(ClipSpec(model="ViT-B-16-quickgelu"))


def test_a_local_model_is_loaded_and_named_without_its_folder(tmp_path, clip: ClipBackbone) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    config = {"model_cfg": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": text}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.save(clip.model.state_dict(), folder / "open_clip_pytorch_model.bin")
    spec = ClipSpec(model=f"local-dir:{folder}", weights="included", precision="fp32")
    local = ClipBackbone(build_clip(spec), spec)
    batch = torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(local.encode(batch)["map"], clip.encode(batch)["map"])
    assert local.fingerprint()["model"] == "local-dir:mine"
    assert local.fingerprint()["weights_sha256"] == clip.fingerprint()["weights_sha256"]


def test_a_local_model_without_weights_is_not_left_random(tmp_path) -> None:
    config = {
        "model_cfg": {
            "embed_dim": 24,
            "vision_cfg": VISION,
            "text_cfg": {"width": 32, "heads": 2, "layers": 1},
        }
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises((MissingFileError, InputError), match="could not be loaded"):
        build_clip(ClipSpec(model=f"local-dir:{tmp_path}", weights="included"))
