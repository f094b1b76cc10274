"""The value path against FG-CLIP's published operation on the vision model of transformers."""

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from regionspot_cache.backbones.clip import ClipBackbone
from regionspot_cache.backbones.clip_values import pool_boxes, require_value_path
from regionspot_cache.errors import UsageError
from tests.backbones.small import TEXT, VISION, picture, random_boxes, small_clip

TIMM = {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": "token", "timm_proj": "linear"}


def in_transformers(clip: ClipBackbone) -> CLIPVisionModelWithProjection:
    """The same tower, with the same weights."""
    visual = clip.model.visual
    width, heads = VISION["width"], VISION["width"] // VISION["head_width"]
    twin = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=24,
            num_hidden_layers=VISION["layers"],
            num_attention_heads=heads,
            image_size=VISION["image_size"],
            patch_size=VISION["patch_size"],
            hidden_act="gelu",
        )
    ).eval()
    ours = visual.state_dict()
    state = {
        "embeddings.class_embedding": ours["class_embedding"],
        "embeddings.patch_embedding.weight": ours["conv1.weight"],
        "embeddings.position_embedding.weight": ours["positional_embedding"],
        **_both(ours, "ln_pre", "pre_layrnorm"),
        **_both(ours, "ln_post", "post_layernorm"),
    }
    for i in range(VISION["layers"]):
        block, layer = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
        for kind in ("weight", "bias"):
            parts = ours[f"{block}.attn.in_proj_{kind}"].chunk(3)
            state |= {f"{layer}.self_attn.{p}_proj.{kind}": v for p, v in zip("qkv", parts, strict=True)}
        for old, new in {
            "attn.out_proj": "self_attn.out_proj",
            "ln_1": "layer_norm1",
            "ln_2": "layer_norm2",
            "mlp.c_fc": "mlp.fc1",
            "mlp.c_proj": "mlp.fc2",
        }.items():
            state |= _both(ours, f"{block}.{old}", f"{layer}.{new}")
    missing = twin.vision_model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert {key.rpartition(".")[2] for key in missing.missing_keys} <= {"position_ids"}
    twin.visual_projection.weight.data = ours["proj"].T
    return twin


def _both(ours: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {f"{new}.{kind}": ours[f"{old}.{kind}"] for kind in ("weight", "bias")}


def dense_features(twin: CLIPVisionModelWithProjection, batch: Tensor) -> Tensor:
    """FG-CLIP's `get_image_dense_features`: patches [B,N,E] of the last block without its attention."""
    model = twin.vision_model
    x = twin(batch, output_hidden_states=True).hidden_states[-2]
    last = model.encoder.layers[-1]
    values = last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(x)))
    x = x + values
    x = x + last.mlp(last.layer_norm2(x))
    return twin.visual_projection(model.post_layernorm(x[:, 1:]))


@pytest.fixture(scope="module")
def clip() -> ClipBackbone:
    clip = small_clip(values=True, layers=(-1, 0))
    for name, parameter in clip.model.visual.named_parameters():
        if "ln_" in name or name.endswith("bias"):  # one and zero at first, which hides where they are used
            torch.nn.init.normal_(parameter, mean=float("weight" in name), std=0.3)
    return clip


def test_values_are_the_dense_features_of_fg_clip(clip: ClipBackbone) -> None:
    batch = clip.normalise(torch.stack([clip.preprocess(picture(60, 40 + i, seed=i)) for i in range(3)]))
    twin = in_transformers(clip)
    with torch.no_grad():
        torch.testing.assert_close(twin(batch).image_embeds, clip.encode_image(batch), rtol=1e-4, atol=1e-5)
        expected = dense_features(twin, batch)
    found = clip.encode(batch)["values"]
    assert found.shape == (3, *clip.arrays["values"].shape) == (3, 9, 24)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_maps_are_what_they_are_without_the_values(clip: ClipBackbone) -> None:
    batch = clip.normalise(clip.preprocess(picture(60, 40))[None])
    plain = ClipBackbone(clip.parts, small_clip(layers=(-1, 0)).spec)
    found, expected = clip.encode(batch), plain.encode(batch)
    assert found.keys() - expected.keys() == {"values"}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_boxes_are_pooled_as_fg_clip_pools_them() -> None:
    values, boxes = torch.randn(14 * 14, 24), random_boxes(20, 300, 500)
    boxes[0] = [0, 0, 500, 300]
    relative = torch.from_numpy(boxes / np.array([500, 300, 500, 300], np.float32))
    image_map = values.reshape(14, 14, 24).permute(2, 0, 1)[None]
    expected = roi_align(image_map, [relative * 14], (1, 1), 1.0, -1, True)[..., 0, 0]
    found = pool_boxes(values, (14, 14), boxes, (300, 500))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0], values.mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("vision", "reason"),
    [
        (TIMM | {"timm_pool": "map", "timm_proj": "none"}, "through the attention that pools them"),
        (TIMM, "its tower is a VisionTransformer"),
        (TIMM | {"timm_model_name": "test_vit_relpos", "timm_pool": "avg"}, "its tower is a VisionTransf"),
        (VISION | {"attentional_pool": True, "attn_pooler_heads": 2}, "through the attention that pools"),
        (VISION | {"layers": 1}, "it has one block"),
    ],
    ids=["siglip", "timm", "timm without class token", "coca", "one block"],
)
def test_towers_without_a_value_path_are_refused(vision: dict, reason: str) -> None:
    with pytest.raises(UsageError, match=f"small has no value path: .*{reason}"):
        small_clip(vision=vision, values=True)
    assert "values" not in small_clip(vision=vision).arrays


def test_a_resnet_has_no_value_path() -> None:
    model = open_clip.CLIP(
        embed_dim=24, vision_cfg={"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}, text_cfg=TEXT
    )
    with pytest.raises(UsageError, match="its tower is a ModifiedResNet"):
        require_value_path(model.visual, "RN")
