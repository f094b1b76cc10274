"""SAM families of transformers against that library's own processors and models."""

import json
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from regionspot_cache.backbones import Backbone, BackboneSpec, load_sam, sam_base
from regionspot_cache.backbones.hf_sam import TransformersSam
from regionspot_cache.backbones.hf_sam_load import FAMILIES, PUBLISHED, load_transformers_sam
from regionspot_cache.backbones.presets import SamSpec
from regionspot_cache.errors import InputError, MissingFileError, RegionSpotError, UsageError
from regionspot_cache.recognition.inputs import RegionInputs
from tests.backbones.small import picture, random_boxes, small_clip
from tests.backbones.small_hf import CLASSES, CONFIGS, model_folder, small_transformers_sam

SIZES = [(90, 131), (200, 77), (40, 40)]
REAL_IMAGES = Path(__file__).parents[2].parent / "shared" / "real-images" / "images"
LONGEST_SIDE = ("sam", "sam_hq")
TOKEN_INDEX = {"sam": 1, "sam_hq": 1, "sam2": 2, "sam3": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: model_folder(root / family, family) for family in CONFIGS}


@pytest.fixture(scope="module", params=list(CONFIGS))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def sam(folders: dict[str, Path], family: str) -> TransformersSam:
    return small_transformers_sam(folders[family], store=("transformer", "prompt", "mlp"))


def processor_of(family: str, side: int) -> Any:
    """The library's processor of images and boxes, for a small network."""
    _, processor, images = CLASSES[family]
    if family in LONGEST_SIDE:
        return processor(images(size={"longest_edge": side}, pad_size={"height": side, "width": side}))
    return processor(images(size={"height": side, "width": side}))


@torch.inference_mode()
def reference(family: str, sam: TransformersSam, image: np.ndarray, boxes: np.ndarray) -> dict[str, Any]:
    """Inputs, tokens and masks of the library's own path for one image, tokens caught by hooks."""
    caught: dict[str, Any] = {}
    network, processor = sam.network, processor_of(family, sam.image_size)
    decoder = network.mask_decoder
    hooks = [
        decoder.transformer.register_forward_hook(lambda m, i, out: caught.update(hs=out[0], cells=out[1])),
        decoder.output_hypernetworks_mlps[0].register_forward_hook(lambda m, i, out: caught.update(mlp=out)),
        network.prompt_encoder.register_forward_hook(lambda m, i, out: caught.update(prompt=out[0])),
    ]
    if family == "sam_hq":  # it upscales the image from before the transformer; see `HqSam`
        hooks.append(decoder.upscale_conv1.register_forward_pre_hook(lambda m, i: (grid(caught["cells"]),)))
    inputs = processor(image, input_boxes=[boxes.tolist()], return_tensors="pt")
    output = network(
        pixel_values=inputs["pixel_values"], input_boxes=inputs["input_boxes"], multimask_output=False
    )
    for hook in hooks:
        hook.remove()
    sizes = [inputs["original_sizes"]]
    if family in LONGEST_SIDE:
        side = {"height": sam.image_size, "width": sam.image_size}
        [masks] = processor.post_process_masks(
            output.pred_masks, *sizes, inputs["reshaped_input_sizes"], pad_size=side
        )
    else:
        [masks] = processor.post_process_masks(output.pred_masks, *sizes)
    return {
        "pixels": inputs["pixel_values"][0],
        "transformer": caught["hs"][0, :, TOKEN_INDEX[family]],
        "mlp": caught["mlp"][0],
        "prompt": caught["prompt"][0, :, :2].flatten(1),
        "masks": masks[:, 0],
        "quality": output.iou_scores[0, :, 0],
    }


def grid(cells: torch.Tensor) -> torch.Tensor:
    """[n,1,h*w,D] to [n,D,h,w]."""
    side = int(cells.shape[2] ** 0.5)
    return cells[:, 0].transpose(1, 2).unflatten(2, (side, side))


def test_tokens_of_many_images_equal_the_library_image_by_image(family: str, sam: TransformersSam) -> None:
    boxes = [random_boxes(n, *size, seed=n) for n, size in zip((5, 0, 9), SIZES, strict=True)]
    batch = torch.stack([sam.preprocess(picture(*size)) for size in SIZES])
    found = sam.tokens(sam.embed(batch), boxes, SIZES)
    for i, size in enumerate(SIZES):
        if len(boxes[i]) == 0:
            assert found["transformer"][i].shape == (0, 64)
            continue
        expected = reference(family, sam, picture(*size), boxes[i])
        torch.testing.assert_close(sam.normalise(batch[i : i + 1])[0], expected["pixels"], rtol=0, atol=0)
        for position in ("transformer", "prompt", "mlp"):
            assert (found[position][i] - expected[position]).abs().max() < 1e-4, position


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not REAL_IMAGES.is_dir(), reason="no real images")
@pytest.mark.parametrize(("family", "model"), [("sam2", "sam2.1-hiera-tiny"), ("sam_hq", "sam-hq-vit-b")])
def test_full_size_tokens_and_masks_equal_the_library_on_real_images(family: str, model: str) -> None:
    sam = load_transformers_sam(SamSpec(model=model, weights="random:0", precision="fp32"))
    for seed, file in enumerate(sorted(REAL_IMAGES.rglob("*.jpg"))[:2]):
        image = np.array(Image.open(file).convert("RGB"))
        size = image.shape[:2]
        boxes = random_boxes(16, *size, seed=seed)
        expected = reference(family, sam, image, boxes)
        embedding = sam.embed(sam.preprocess(image)[None])
        [tokens] = sam.tokens(embedding, [boxes], [size])["transformer"]
        assert (tokens - expected["transformer"]).abs().max() < 1e-4
        assert (sam.masks(embedding, boxes, size)[0] == expected["masks"]).float().mean() > 0.999


def test_tokens_tell_boxes_and_images_apart(sam: TransformersSam) -> None:
    """Parity means nothing where every token is the same."""
    boxes = random_boxes(4, 90, 131)
    batch = torch.stack([sam.preprocess(picture(90, 131, seed)) for seed in (0, 1)])
    first, second = sam.tokens(sam.embed(batch), [boxes, boxes], [(90, 131)] * 2)["transformer"]
    assert torch.pdist(first).min() > 0.1
    assert (first - second).abs().max() > 1e-3


def test_methods_read_it_as_any_sam(sam: TransformersSam) -> None:
    image, boxes = picture(90, 131), random_boxes(3, 90, 131)
    inputs = RegionInputs(Backbone({"sam": sam, "clip": small_clip()}, BackboneSpec()), image, boxes)
    embedding = sam.embed(sam.preprocess(image)[None])
    [expected] = sam.tokens(embedding, [boxes], [(90, 131)])["transformer"]
    assert torch.equal(inputs.query("sam/transformer"), expected)
    assert inputs.masks.pixels(range(3)).shape == (3, 90, 131)


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 26])
def test_masks_equal_the_library(
    family: str, sam: TransformersSam, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(sam_base, "CHUNK_BYTES", {"cpu": chunk_bytes})
    image, boxes = picture(90, 131), random_boxes(5, 90, 131)
    expected = reference(family, sam, image, boxes)
    masks, quality = sam.masks(sam.embed(sam.preprocess(image)[None]), boxes, (90, 131))
    assert masks.dtype == torch.bool
    assert 0.01 < masks.float().mean() < 0.99
    assert (masks == expected["masks"]).float().mean() > 0.999
    torch.testing.assert_close(quality, expected["quality"], rtol=0, atol=1e-5)


def test_masks_of_hq_sam_need_its_early_features(folders: dict[str, Path]) -> None:
    sam = small_transformers_sam(folders["sam_hq"])
    image, boxes = picture(90, 131), random_boxes(5, 90, 131)
    embedding = sam.embed(sam.preprocess(image)[None])
    changed = type(embedding)(embedding.cells, (-embedding.fine[0],))
    masks = [sam.masks(e, boxes, (90, 131))[0] for e in (embedding, changed)]
    tokens = [sam.tokens(e, [boxes], [(90, 131)])["transformer"][0] for e in (embedding, changed)]
    assert (masks[0] != masks[1]).float().mean() > 0.001
    assert torch.equal(*tokens)


def test_narrow_images_keep_a_row(sam: TransformersSam) -> None:
    size = (3, 2000)
    embedding = sam.embed(sam.preprocess(picture(*size))[None])
    boxes = np.array([[5, 0, 900, 3]], np.float32)
    assert sam.tokens(embedding, [boxes], [size])["transformer"][0].isfinite().all()
    assert sam.masks(embedding, boxes, size)[0].shape == (1, *size)


def test_small_images_of_ambiguous_shape_are_rows_and_columns(sam: TransformersSam) -> None:
    assert sam.preprocess(picture(3, 3)).shape == (4, sam.image_size, sam.image_size)


def test_fingerprint_follows_what_decides_the_values(folders: dict[str, Path], family: str) -> None:
    folder = folders[family]
    base = small_transformers_sam(folder).fingerprint()
    assert json.loads(json.dumps(base)) == base
    assert str(folder) not in json.dumps(base)
    assert f"(index {TOKEN_INDEX[family]}" in base["token"]
    assert ("longest side 128" if family in LONGEST_SIDE else "squash to") in base["preprocess"]
    for other in ({"seed": 1}, {"precision": "bf16"}):
        assert small_transformers_sam(folder, **other).fingerprint() != base
    assert (
        small_transformers_sam(folder, store=("mlp",)).fingerprint() == base
    )  # which arrays, not their values


def test_bf16_tokens_are_close_to_float32(folders: dict[str, Path], family: str) -> None:
    image, boxes = picture(90, 131), random_boxes(6, 90, 131)
    tokens = []
    for precision in ("fp32", "bf16"):
        sam = small_transformers_sam(folders[family], precision=precision)
        embedding = sam.embed(sam.preprocess(image)[None])
        cells, *fine = (embedding,) if isinstance(embedding, torch.Tensor) else embedding
        assert {t.dtype for t in (cells, *chain(*fine))} == {torch.float32}
        tokens.append(sam.tokens(embedding, [boxes], [(90, 131)])["transformer"][0])
    assert torch.cosine_similarity(*tokens).min() > 0.999
    assert not torch.equal(*tokens)


def test_weights_come_from_a_folder_and_from_a_file(
    folders: dict[str, Path], family: str, sam: TransformersSam, tmp_path: Path
) -> None:
    sam.network.save_pretrained(tmp_path / "saved")
    included = load_sam(replace(sam.spec, model=f"local-dir:{tmp_path / 'saved'}", weights="included"))
    assert included.fingerprint() == sam.fingerprint()
    file = next((tmp_path / "saved").glob("*.safetensors"))
    assert load_sam(SamSpec(model=f"local-dir:{folders[family]}", weights=str(file))).weights_sha256 == (
        sam.weights_sha256
    )


def test_the_processor_of_a_folder_counts(folders: dict[str, Path], tmp_path: Path) -> None:
    sam = small_transformers_sam(folders["sam2"])
    sam.network.save_pretrained(tmp_path)
    processor = transformers.Sam2ImageProcessor(image_mean=[0.1, 0.2, 0.3], rescale_factor=1 / 99, resample=3)
    processor.save_pretrained(tmp_path)
    other = load_sam(SamSpec(model=f"local-dir:{tmp_path}", weights="included"))
    assert "mean [0.1, 0.2, 0.3]" in other.fingerprint()["preprocess"]
    pixels = other.preprocess(picture(30, 40))
    assert pixels.dtype == torch.uint8
    side = {"height": 128, "width": 128}  # the network's, not the processor's
    expected = processor(picture(30, 40), size=side, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(other.normalise(pixels[None]), expected)


@pytest.mark.parametrize("change", ["missing", "shape", "deeper"])
def test_weights_that_do_not_fit_are_refused(folders: dict[str, Path], tmp_path: Path, change: str) -> None:
    """transformers itself would draw random values or leave tensors out."""
    state = dict(small_transformers_sam(folders["sam2"]).network.state_dict())
    name = "mask_decoder.iou_token.weight"
    if change == "missing":
        del state[name]
    elif change == "shape":
        state[name] = torch.ones(1, 7)
    else:
        name = "vision_encoder.backbone.blocks.6.layer_norm1.weight"
        state[name] = torch.ones(16)
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "other.safetensors")
    with pytest.raises(
        InputError, match=rf"other.safetensors does not fit .* 1 tensors differ, first {name}"
    ):
        load_sam(SamSpec(model=f"local-dir:{folders['sam2']}", weights=str(tmp_path / "other.safetensors")))


@pytest.mark.parametrize(
    ("model", "weights", "error", "text"),
    [
        ("local-dir:nowhere", "included", MissingFileError, "There is no file nowhere/config.json"),
        ("sam2.1-hiera-tiny", "included", UsageError, "weights: official"),
        ("sam2.1-hiera-tiny", "none.safetensors", MissingFileError, "none.safetensors"),
        ("sam2.1-hiera-tiny", "official", MissingFileError, "hf download facebook/sam2.1-hiera-tiny"),
        ("hf-hub:facebook/sam3", "included", MissingFileError, "hf download facebook/sam3"),
        ("sam4", "official", UsageError, "sam2.1-hiera-tiny, .*local-dir:DIR"),
    ],
)
def test_what_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, model: str, weights: str, error: type[RegionSpotError], text: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(error, match=text):
        load_sam(SamSpec(model=model, weights=weights))


def test_folders_of_other_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match=r"type bert.[\s\S]*sam_hq"):
        load_sam(SamSpec(model=f"local-dir:{tmp_path}", weights="random:0"))


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("config.json", b"[" * 100_000, "is not JSON"),
        ("config.json", b'{"model_type": "sam", "vision_config": {"image_size": "x"}}', "cannot be used"),
        (
            "config.json",
            b'{"model_type": "sam", "vision_config": {"num_hidden_layers": 2147483648}}',
            "a size of",
        ),
        ("model.safetensors", (2).to_bytes(8, "little") + b"[]", "cannot be used: SafetensorError"),
        ("preprocessor_config.json", b'{"image_mean": "x"}', "image processor of .* cannot be used"),
        ("preprocessor_config.json", b"\xff", "image processor of .* cannot be used"),
        ("preprocessor_config.json", b'{"do_normalize": false}', "it has do_normalize off"),
    ],
)
def test_broken_folders_are_refused(
    folders: dict[str, Path], tmp_path: Path, name: str, content: bytes, text: str
) -> None:
    small_transformers_sam(folders["sam"]).network.save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=text):
        load_sam(SamSpec(model=f"local-dir:{tmp_path}", weights="included"))


def test_without_transformers_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match="uv pip install transformers"):
        load_sam(SamSpec(model="sam3", weights="random:0"))


# Millions of parameters of the image encoder and of the whole video model that contains it: of SAM 2.1 as its
# README gives them; the image encoders of HQ-SAM are SAM's.
PUBLISHED_MILLIONS = {
    "sam-hq-vit-b": (89.67, None),
    "sam-hq-vit-l": (308.28, None),
    "sam-hq-vit-h": (637.03, None),
    "sam2.1-hiera-tiny": (27.2, 38.9),
    "sam2.1-hiera-small": (34.3, 46.0),
    "sam2.1-hiera-base-plus": (69.1, 80.8),
    "sam2.1-hiera-large": (212.7, 224.4),
    "sam3": (454.0, None),
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_networks_have_their_published_sizes(name: str) -> None:
    published = PUBLISHED[name]
    family = FAMILIES[published.family]
    config = getattr(transformers, f"{family.name}Config")(**published.settings)
    encoder, video = PUBLISHED_MILLIONS[name]
    with torch.device("meta"):
        network = getattr(transformers, f"{family.name}Model")(config)
        assert millions(network.vision_encoder) == pytest.approx(encoder, abs=0.06)
        if video:
            whole = transformers.Sam2VideoConfig(vision_config=config.vision_config.to_dict())
            assert millions(transformers.Sam2VideoModel(whole)) == pytest.approx(video, abs=0.07)
    side = {"sam_hq": 1024, "sam2": 1024, "sam3_tracker": 1008}[published.family]
    assert config.prompt_encoder_config.image_size == side


def millions(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6
