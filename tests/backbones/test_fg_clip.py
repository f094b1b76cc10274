"""FG-CLIP out of files in its published layout, against its arithmetic written out on transformers' CLIP."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.ops import roi_align

from regionspot_cache.backbones import Backbone, BackboneSpec, ClipBackbone, load_clip
from regionspot_cache.backbones.at_hand import at_hand
from regionspot_cache.backbones.fg_clip import FG_CLIP, UNREAD, open_clip_state, published_names
from regionspot_cache.backbones.presets import ClipSpec, HeadInputs
from regionspot_cache.errors import InputError, MissingFileError, UsageError
from regionspot_cache.recognition import RegionInputs, embedding_method
from tests.backbones.small import picture, random_boxes

TEXTS = ["a photo of a cat", "zebra crossing", " ".join(["word"] * 100)]
END = 49407
NO_HEAD = HeadInputs(query="box/position", memory=("clip/values",))
SIZES = {  # published: width, blocks, heads, patch, pixels; of texts: width, heads; of both: embedding
    "fg-clip-base": ((768, 12, 12, 16, 224), (512, 8), 512),
    "fg-clip-large": ((1024, 24, 16, 14, 336), (768, 12), 768),
    "small": ((32, 3, 2, 16, 48), (32, 4), 24),
}


def config_of(name: str) -> transformers.CLIPConfig:
    (width, blocks, heads, patch, side), (text_width, text_heads), embedding = SIZES[name]
    return transformers.CLIPConfig(
        vision_config={
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": blocks,
            "num_attention_heads": heads,
            "patch_size": patch,
            "image_size": side,
        },
        text_config={
            "hidden_size": text_width,
            "intermediate_size": 4 * text_width,
            "num_hidden_layers": 2 if name == "small" else 12,
            "num_attention_heads": text_heads,
            "eos_token_id": END,
        },
        projection_dim=embedding,
    )


def published(model: transformers.CLIPModel) -> dict[str, Tensor]:
    """A state dict as FG-CLIP's files have it: also with what belongs to long texts and to the training."""
    state = dict(model.state_dict())
    short = state["text_model.embeddings.position_embedding.weight"]
    rows = {"ori": short.new_ones(248, short.shape[1]), "res": short.new_ones(248, short.shape[1])}
    state |= {f"text_model.embeddings.position_embedding_{key}.weight": rows[key] for key in rows}
    state["text_filip_projection.weight"] = torch.ones_like(state["text_projection.weight"])
    scale = state["logit_scale"]
    return state | {"logit_scale_finegraind": scale.clone(), "logit_scale_hardneg": scale.clone()}


@pytest.fixture(scope="module")
def reference() -> transformers.CLIPModel:
    """Of FG-CLIP's architecture, with random weights that are no multiples of anything."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.CLIPModel(config_of("small")).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
            model.logit_scale.fill_(4.5)
    return model


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: transformers.CLIPModel) -> ClipSpec:
    """`fg-clip-base` made small, and a published file of that size."""
    config = open_clip.get_model_config("ViT-B-16-quickgelu")
    assert config is not None
    config["embed_dim"] = 24
    config["vision_cfg"] |= {"image_size": 48, "width": 32, "layers": 3, "head_width": 16}
    config["text_cfg"] |= {"width": 32, "heads": 4, "layers": 2}
    # Not `open_clip.add_model_config`, which could not be undone.
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small-quickgelu", config)
    monkeypatch.setitem(FG_CLIP, "fg-clip-base", FG_CLIP["fg-clip-base"]._replace(size="small-quickgelu"))
    save_file({k: v.contiguous() for k, v in published(reference).items()}, tmp_path / "model.safetensors")
    return ClipSpec(
        model="fg-clip-base", weights=str(tmp_path / "model.safetensors"), precision="fp32", values=True
    )


@torch.inference_mode()
def dense_features(model: transformers.CLIPModel, pixels: Tensor) -> Tensor:
    """FG-CLIP's: the last block without attention, then the final norm and the projection, [B,N,E]."""
    vision = model.vision_model
    x = vision(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
    block = vision.encoder.layers[-1]
    x = x + block.self_attn.out_proj(block.self_attn.v_proj(block.layer_norm1(x)))
    x = x + block.mlp(block.layer_norm2(x))
    return model.visual_projection(vision.post_layernorm(x[:, 1:]))


@torch.inference_mode()
def short_texts(model: transformers.CLIPModel, texts: list[str]) -> Tensor:
    """FG-CLIP's: 77 positions, padded with the end token, whose first place is read; not normalised."""
    ids = open_clip.get_tokenizer("ViT-B-16-quickgelu")(texts)
    ids = torch.where(ids == 0, END, ids)
    hidden = model.text_model(input_ids=ids).last_hidden_state
    return model.text_projection(hidden[torch.arange(len(ids)), (ids == END).int().argmax(1)])


def test_values_are_the_published_dense_features(small: ClipSpec, reference: transformers.CLIPModel) -> None:
    clip = load_clip(small)
    batch = clip.normalise(torch.stack([clip.preprocess(picture(40, 60, seed)) for seed in (0, 1)]))
    found = clip.encode(batch)
    expected = dense_features(reference, batch)
    assert found["values"].shape == expected.shape == (2, 9, 24)
    torch.testing.assert_close(found["values"], expected, rtol=1e-4, atol=1e-5)
    assert torch.pdist(expected.flatten(0, 1)).min() > 1e-2  # parity means nothing where all are the same
    with torch.inference_mode():
        whole = reference.get_image_features(pixel_values=batch).pooler_output
        hidden = reference.vision_model(pixel_values=batch, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(clip.encode_image(batch), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["map"], hidden, rtol=1e-4, atol=1e-5)


def test_pixels_are_those_of_the_published_processor(small: ClipSpec) -> None:
    image, clip = picture(40, 60), load_clip(small)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=48)
    expected = processor(Image.fromarray(image).resize((48, 48)), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(clip.normalise(clip.preprocess(image)[None])[0], expected, rtol=0, atol=1e-5)


def test_texts_are_the_published_short_ones(small: ClipSpec, reference: transformers.CLIPModel) -> None:
    clip = load_clip(small)
    torch.testing.assert_close(clip.encode_text(TEXTS), short_texts(reference, TEXTS), rtol=1e-4, atol=1e-5)
    assert clip.logit_scale == pytest.approx(np.exp(4.5))


def test_clip_roi_pools_them_and_then_normalises(small: ClipSpec, reference: transformers.CLIPModel) -> None:
    image, boxes = picture(40, 60), random_boxes(5, 40, 60)
    clip = load_clip(small)
    backbone = Backbone({"clip": clip}, BackboneSpec(parts={"clip": small}, head=NO_HEAD))
    text = normalize(short_texts(reference, TEXTS), dim=-1)
    found = embedding_method("clip-roi", backbone).probabilities(RegionInputs(backbone, image, boxes), text)
    dense = dense_features(reference, clip.normalise(clip.preprocess(image)[None]))
    cells = torch.from_numpy(boxes) * torch.tensor([3 / 60, 3 / 40] * 2)
    pooled = roi_align(dense.mT.reshape(1, -1, 3, 3), [cells], (1, 1), 1.0, -1, True)[..., 0, 0]
    expected = (np.exp(4.5) * normalize(pooled, dim=-1) @ text.T).log_softmax(-1)
    np.testing.assert_allclose(np.log(found), expected, rtol=1e-3, atol=1e-2)
    assert expected.std(0).max() > 1


@pytest.mark.parametrize("name", list(FG_CLIP))
def test_published_sizes_fit_open_clip(name: str) -> None:
    with torch.device("meta"):
        state = published(transformers.CLIPModel(config_of(name)))
        own = open_clip.create_model(FG_CLIP[name].size, device="meta").state_dict()
    found = open_clip_state(state, own, name)
    assert {key: value.shape for key, value in found.items()} == {k: v.shape for k, v in own.items()}
    assert {n for key in own for n in published_names(key)} | UNREAD >= state.keys()


def test_fingerprints_name_fg_clip_and_its_weights(small: ClipSpec, tmp_path: Path) -> None:
    clip = load_clip(small)
    assert clip.fingerprint()["model"] == clip.text_fingerprint()["model"] == "fg-clip-base"
    assert clip.fingerprint()["quick_gelu"]
    assert str(tmp_path) not in json.dumps([clip.fingerprint(), clip.text_fingerprint()])
    other = ClipBackbone(clip.parts, small)
    assert other.fingerprint() == clip.fingerprint()
    drawn = load_clip(ClipSpec(model="fg-clip-base", weights="random:0", values=True, precision="fp32"))
    assert drawn.fingerprint()["weights_sha256"] != clip.fingerprint()["weights_sha256"]
    assert drawn.text_fingerprint() != clip.text_fingerprint()


def test_another_size_resizes_the_positions(small: ClipSpec) -> None:
    larger = load_clip(replace(small, image_size=96))
    assert larger.grid == (6, 6)
    found = larger.encode(larger.preprocess(picture(40, 60))[None])["values"]
    assert found.shape == (1, 36, 24)
    assert torch.equal(larger.encode_text(TEXTS), load_clip(small).encode_text(TEXTS))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("missing", "vision_model.encoder.layers.1.self_attn.v_proj.bias"),
        ("missing", "text_filip_projection.weight"),
        ("unknown", "vision_model.encoder.layers.3.layer_norm1.bias"),
        ("shape", "visual_projection.weight"),
        ("shape", "text_model.encoder.layers.0.self_attn.q_proj.weight"),
    ],
)
def test_files_that_do_not_fit_are_refused(small: ClipSpec, change: str, name: str) -> None:
    state = {key: value.clone() for key, value in load_file(small.weights).items()}
    if change == "missing":
        del state[name]
    else:
        state[name] = torch.ones(3, 4)
    save_file(state, small.weights)
    with pytest.raises(InputError, match=f"does not fit FG-CLIP: 1 tensors differ, first {name}"):
        load_clip(small)


def test_what_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    official = ClipSpec(model="fg-clip-large", weights="official")
    assert not at_hand(official)
    with pytest.raises(MissingFileError, match="hf download qihoo360/fg-clip-large"):
        load_clip(official)
    with pytest.raises(MissingFileError, match=r"none\.safetensors"):
        load_clip(ClipSpec(model="fg-clip-base", weights="none.safetensors"))
    with pytest.raises(UsageError, match=r"no openai weights of fg-clip-base[\s\S]*official"):
        load_clip(ClipSpec(model="fg-clip-base"))
