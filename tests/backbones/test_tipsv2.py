"""TIPSv2 against the transformers library's own processor and model, and as a part of a cache."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import normalize
from torchvision.ops import roi_align
from transformers.tokenization_utils_base import generate_merges

from regionspot_cache.backbones import (
    Backbone,
    BackboneSpec,
    HeadInputs,
    TextEncoder,
    Tipsv2Spec,
    load_part,
)
from regionspot_cache.backbones.at_hand import at_hand
from regionspot_cache.backbones.costs import network_cost
from regionspot_cache.backbones.tipsv2 import Tipsv2
from regionspot_cache.backbones.tipsv2_load import PUBLISHED, load_tipsv2
from regionspot_cache.errors import InputError, MissingFileError, RegionSpotError, UsageError
from regionspot_cache.recognition import RegionInputs, embedding_method
from regionspot_cache.store import open_cache
from tests.backbones.small import picture, random_boxes, small_clip, small_sam
from tests.running import rs_cache

CONFIG: dict[str, Any] = {
    "model_type": "tipsv2",
    "vision_config": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 56,
    },
    "text_config": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 300,
        "max_position_embeddings": 16,
    },
}
TEXTS = ["A Cat.", "dog", "a photo of many, many different and very long words"]
LETTERS = "abcdefghijklmnopqrstuvwxyz.,"
PIECES = ["<pad>", "<unk>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *LETTERS, "▁c", "▁ca", "▁cat"]
SPEC = BackboneSpec(
    parts={"tips": Tipsv2Spec(values=True)}, head=HeadInputs(query="box/position", memory=("tips/map",))
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model and its tokenizer; the vectors that start as zeros and ones are random too."""
    where = tmp_path_factory.mktemp("models") / "tips"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.Tipsv2Model(transformers.Tipsv2Config(**CONFIG))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
            model.temperature.fill_(0.02)
    model.save_pretrained(where)
    vocabulary = {piece: i for i, piece in enumerate(PIECES)}
    merges = generate_merges(vocabulary)
    transformers.Tipsv2Tokenizer(vocab=vocabulary, merges=merges).save_pretrained(where)
    return where


def spec_of(folder: Path, **changed: Any) -> Tipsv2Spec:
    spec = Tipsv2Spec(model=f"local-dir:{folder}", weights="included", values=True, precision="fp32")
    return replace(spec, **changed)


@pytest.fixture(scope="module")
def tips(folder: Path) -> Tipsv2:
    return load_tipsv2(spec_of(folder))


@pytest.fixture(scope="module")
def library(folder: Path) -> Any:
    """The library's own model of the folder."""
    return transformers.AutoModel.from_pretrained(folder).eval()


def pixels_of(images: list[np.ndarray], side: int = 56) -> torch.Tensor:
    processor = transformers.Tipsv2ImageProcessor(size={"height": side, "width": side})
    return torch.cat(
        [processor(i, input_data_format="channels_last", return_tensors="pt")["pixel_values"] for i in images]
    )


@torch.inference_mode()
def value_path(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """What TIPSv2's authors segment with: the last block with the values of all tokens as its attention."""
    hidden = model.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
    block, caught = model.vision_model.encoder.layer[-1], []
    hook = block.attention.v_proj.register_forward_hook(lambda m, i, out: caught.append(out))
    block(hidden[-2])
    hook.remove()
    x = hidden[-2] + block.attention.o_proj(caught[0]) * block.layer_scale1.lambda1
    x = x + block.mlp(block.norm2(x)) * block.layer_scale2.lambda1
    return model.vision_model.layernorm(x)[:, 2:]  # without class and register token


def test_maps_and_embeddings_of_images_equal_the_library(tips: Tipsv2, library: Any) -> None:
    images = [picture(90, 131), picture(30, 40, 1)]
    pixels = torch.stack([tips.preprocess(image) for image in images])
    assert pixels.dtype == torch.uint8
    batch = tips.normalise(pixels)
    torch.testing.assert_close(batch, pixels_of(images), rtol=0, atol=1e-6)
    found = tips.encode(pixels)
    with torch.inference_mode():
        expected = library.vision_model(pixel_values=batch, output_hidden_states=True)
        normed = library.vision_model.layernorm(found["map"])
    assert {name: tuple(x.shape[1:]) for name, x in found.items()} == {
        name: array.shape for name, array in tips.arrays.items()
    }
    assert tips.arrays["map"].shape == (2 + 16, 32)
    torch.testing.assert_close(found["map"], expected.hidden_states[-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(normed, expected.last_hidden_state, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["values"], value_path(library, batch), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tips.encode_image(batch), expected.pooler_output, rtol=1e-4, atol=1e-5)
    for name in found:  # parity means nothing where all are the same
        assert torch.pdist(found[name].flatten(0, 1)).min() > 1e-2
    assert (found["values"] - normed[:, 2:]).abs().max() > 0.1


def test_texts_equal_the_library(tips: Tipsv2, library: Any, folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    assert inputs["attention_mask"].sum(1).tolist() == [4, 4, 16]
    with torch.inference_mode():
        expected = library.get_text_features(**inputs).pooler_output
    torch.testing.assert_close(tips.encode_text(TEXTS), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(tips.encode_text(["a cat."]), tips.encode_text(["A Cat."]))
    assert tips.encode_text([""]).isfinite().all()
    assert tips.encode_text([]).shape == (0, 32)
    assert tips.logit_scale == pytest.approx(50)
    assert isinstance(tips, TextEncoder)


def test_probabilities_of_whole_images_equal_the_library(tips: Tipsv2, library: Any) -> None:
    batch = tips.normalise(tips.preprocess(picture(90, 131))[None])
    inputs = tips.tokenizer(TEXTS)
    with torch.inference_mode():
        expected = library(pixel_values=batch, **inputs).logits_per_image
    image, text = (normalize(x, dim=-1) for x in (tips.encode_image(batch), tips.encode_text(TEXTS)))
    torch.testing.assert_close(tips.logit_scale * image @ text.T, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_larger_inputs_interpolate_positions_as_the_library(
    folder: Path, library: Any, precision: str
) -> None:
    tips = load_tipsv2(spec_of(folder, image_size=84, precision=precision))
    batch = tips.normalise(tips.preprocess(picture(90, 131))[None])
    found = tips.encode(batch)
    assert tips.grid == (6, 6)
    assert found["map"].dtype == found["values"].dtype == torch.float32
    expected = value_path(library, batch)
    assert torch.cosine_similarity(found["values"], expected, dim=-1).min() > 0.999
    if precision == "fp32":
        torch.testing.assert_close(found["values"], expected, rtol=1e-4, atol=1e-5)


def test_clip_roi_pools_its_values_and_its_text_tower_embeds_the_classes(tips: Tipsv2, library: Any) -> None:
    image, boxes = picture(90, 131), random_boxes(5, 90, 131)
    # A CLIP without the array stands before it, and does not count.
    backbone = Backbone({"sam": small_sam(), "clip": small_clip(), "tips": tips}, SPEC)
    method = embedding_method("clip-roi", backbone)
    assert (method.reads, method.text_part) == (("tips/values",), "tips")
    assert backbone.text_of(method.text_part) is tips
    text = normalize(tips.encode_text(TEXTS), dim=-1)
    inputs = RegionInputs(backbone, image, boxes)
    dense = value_path(library, pixels_of([image])).mT.reshape(1, -1, 4, 4)
    cells = torch.from_numpy(boxes) * torch.tensor([4 / 131, 4 / 90] * 2)
    pooled = roi_align(dense, [cells], (1, 1), 1.0, -1, True)[..., 0, 0]
    expected = (50 * normalize(pooled, dim=-1) @ text.T).log_softmax(-1)
    np.testing.assert_allclose(np.log(method.probabilities(inputs, text)), expected, rtol=1e-3, atol=1e-2)
    assert expected.std(0).max() > 0.1
    masked = embedding_method("clip-roi-mask", backbone).probabilities(inputs, text)
    np.testing.assert_allclose(masked.sum(1), 1, rtol=1e-5)
    assert np.abs(masked - expected.exp().numpy()).max() > 1e-3


def test_it_is_extracted_and_evaluated_as_any_part(folder: Path, workplace: Path, tips: Tipsv2) -> None:
    file = workplace / "tips.yaml"
    file.write_text(
        "parts:\n"
        "  sam: {network: sam, model: packaged, weights: packaged, precision: fp32}\n"
        f'  tips: {{network: tipsv2, model: "local-dir:{folder}", weights: included, values: true, '
        "precision: fp32}\n"
        "head: {query: sam/transformer, memory: tips/map}\n"
    )
    for arguments in (
        ("extract", "--dataset", "shapes:val", "--backbone", file, "--cache", "tips"),
        ("eval", "--dataset", "shapes:val", "--set", f"backbone={file}", "--method", "clip-roi", "--json"),
    ):
        ran = rs_cache(*arguments)
        assert ran.code == 0, ran.err
    assert json.loads(ran.out)["results"][0]["protocol"]["method"].startswith("clip-roi")
    cache = open_cache(workplace / "tips")
    image = workplace / "rs-cache-data/datasets/shapes/images" / cache.file_names[0]
    found = tips.encode(tips.preprocess(np.array(Image.open(image).convert("RGB")))[None])
    for name, expected in found.items():
        stored = torch.from_numpy(cache.read(f"tips/{name}", 0))
        assert torch.cosine_similarity(stored, expected[0], dim=-1).min() > 0.999


def test_fingerprints_follow_what_decides_the_values(folder: Path, tips: Tipsv2) -> None:
    base = tips.fingerprint(), tips.text_fingerprint()
    assert json.loads(json.dumps(base)) == list(base)
    assert str(folder.parent) not in json.dumps(base)
    assert load_tipsv2(spec_of(folder, values=False)).fingerprint() == base[0]  # which arrays there are
    other = load_tipsv2(spec_of(folder, weights="random:1"))
    assert other.fingerprint()["weights_sha256"] != base[0]["weights_sha256"]
    assert other.text_fingerprint() != base[1]
    again = load_tipsv2(spec_of(folder, weights="random:1"))
    assert again.fingerprint() == other.fingerprint()
    for changed in ({"image_size": 84}, {"precision": "bf16"}):
        found = load_tipsv2(spec_of(folder, **changed))
        assert found.fingerprint() != base[0]
        assert found.text_fingerprint() == base[1]


def test_weights_come_from_a_file_too_and_must_fit(folder: Path, tips: Tipsv2, tmp_path: Path) -> None:
    published = load_tipsv2(spec_of(folder, weights=str(folder / "model.safetensors")))
    assert published.fingerprint() == tips.fingerprint()
    state = {key: value.clone() for key, value in tips.network.state_dict().items()}
    name = "vision_model.encoder.layer.2.norm1.bias"
    del state[name]
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(
        InputError, match=f"other.safetensors does not fit the network: 1 tensors differ, first {name}"
    ):
        load_tipsv2(spec_of(folder, weights=str(tmp_path / "other.safetensors")))


@pytest.mark.parametrize(
    ("name", "vision", "text"),
    [
        ("tipsv2-b14", 85.7e6, 109.6e6),
        ("tipsv2-l14", 303.2e6, 183.9e6),
        ("tipsv2-so400m14", 412.4e6, 448.3e6),
        ("tipsv2-g14", 1.136e9, 389.1e6),
    ],
)
def test_published_sizes_are_those_of_the_authors_table(name: str, vision: float, text: float) -> None:
    network = load_tipsv2(Tipsv2Spec(model=name, weights="random:0"), "meta").network
    towers = (network.vision_model, network.text_model)
    found = [sum(parameter.numel() for parameter in tower.parameters()) for tower in towers]
    assert found == pytest.approx([vision, text], rel=0.01)


def test_its_cost_is_counted_without_weights(folder: Path) -> None:
    cost = network_cost(Tipsv2Spec(values=True))
    assert cost.input_size == (448, 448)
    assert cost.arrays["values"].shape == (1024, 768)
    assert 150 < cost.image_gflops < 300
    assert cost.box_gflops == 0


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"model": "local-dir:nowhere"}, MissingFileError, "There is no file nowhere/config.json"),
        ({"model": "tipsv2-b14", "weights": "official"}, MissingFileError, "hf download google/tipsv2-b14"),
        ({"model": "tipsv2-b14", "weights": "included"}, UsageError, "weights: official"),
        ({"model": "hf-hub:me/tips"}, MissingFileError, "hf download me/tips"),
        ({"model": "tipsv2-b16"}, UsageError, "tipsv2-b14, .*local-dir:DIR"),
        ({"weights": "none.safetensors"}, MissingFileError, "none.safetensors"),
        ({"image_size": 60}, UsageError, "multiple of the patch size, 14"),
    ],
)
def test_what_is_not_there_is_named(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    error: type[RegionSpotError],
    text: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(error, match=text):
        load_part(spec_of(folder, **changed))


def test_tokenizers_are_made_late_and_missed_clearly(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    tips = load_tipsv2(spec_of(tmp_path))
    assert tips.encode(tips.preprocess(picture(30, 40))[None])
    with pytest.raises(MissingFileError, match=r"no tokenizer\.model"):
        tips.encode_text(TEXTS)
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x01")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UsageError, match="uv pip install sentencepiece"):
        load_tipsv2(spec_of(tmp_path)).encode_text(TEXTS)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    drawn = load_tipsv2(Tipsv2Spec(model="tipsv2-b14", weights="random:0"), "meta")
    with pytest.raises(MissingFileError, match="hf download google/tipsv2-b14"):
        drawn.encode_text(TEXTS)


def test_tokenizers_of_more_words_than_the_network_are_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    vocabulary = {piece: i for i, piece in enumerate([*PIECES, *map(str, range(10, 90))])}
    transformers.Tipsv2Tokenizer(vocab=vocabulary, merges=[]).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"tokenizer of \d+ tokens[\s\S]*At most 300"):
        load_tipsv2(spec_of(tmp_path)).encode_text(TEXTS)


def test_other_folders_and_other_libraries_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam"}))
    with pytest.raises(InputError, match="holds a model of type sam"):
        load_tipsv2(spec_of(tmp_path))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"tipsv2\.model = .* needs the transformers library"):
        load_tipsv2(spec_of(folder))


def test_it_is_known_whether_its_weights_are_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regionspot_cache.backbones.at_hand.try_to_load_from_cache", lambda *args: None)
    assert at_hand(spec_of(folder))
    assert at_hand(Tipsv2Spec(weights="random:0"))
    assert not any(at_hand(Tipsv2Spec(model=name)) for name in PUBLISHED)
