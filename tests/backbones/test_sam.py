"""The SAM side against segment_anything's own predictor."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything import SamPredictor, sam_model_registry

from regionspot_cache.backbones import sam_base
from regionspot_cache.backbones.presets import SamSpec
from regionspot_cache.backbones.sam import SamBackbone
from regionspot_cache.backbones.sam_build import PUBLISHED, build_sam, random_sam
from tests.backbones.small import SAM_CONFIG, picture, random_boxes, small_sam

SIZES = [(90, 131), (200, 77), (40, 40)]
REAL_IMAGES = Path(__file__).parents[2].parent / "shared" / "real-images" / "images"


@pytest.fixture(scope="module")
def sam() -> SamBackbone:
    return small_sam(store=("transformer", "prompt", "mlp"))


@pytest.fixture(scope="module")
def embeddings(sam: SamBackbone) -> torch.Tensor:
    return sam.embed(torch.stack([sam.preprocess(picture(*size)) for size in SIZES]))


def predictor_results(sam: SamBackbone, image: np.ndarray, boxes: np.ndarray) -> dict[str, torch.Tensor]:
    """Tokens and masks of segment_anything's per-image path, the former caught by hooks."""
    caught = {}
    decoder = sam.network.mask_decoder
    hooks = [
        decoder.transformer.register_forward_hook(lambda m, i, out: caught.update(transformer=out[0][:, 1])),
        decoder.output_hypernetworks_mlps[0].register_forward_hook(lambda m, i, out: caught.update(mlp=out)),
        sam.network.prompt_encoder.register_forward_hook(
            lambda m, i, out: caught.update(prompt=out[0].flatten(1))
        ),
    ]
    predictor = SamPredictor(sam.network)
    predictor.set_image(image)
    framed = torch.from_numpy(predictor.transform.apply_boxes(boxes, image.shape[:2])).float()
    masks, quality, _ = predictor.predict_torch(None, None, framed, multimask_output=False)
    for hook in hooks:
        hook.remove()
    return caught | {"embedding": predictor.features, "masks": masks[:, 0], "quality": quality[:, 0]}


@pytest.mark.parametrize("size", [*SIZES, (128, 128), (3, 250), (1, 90)])
def test_preprocess_is_the_input_of_sam_predictor(sam: SamBackbone, size: tuple[int, int]) -> None:
    seen = []
    hook = sam.network.image_encoder.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    SamPredictor(sam.network).set_image(picture(*size))
    hook.remove()
    pixels = sam.preprocess(picture(*size))
    assert pixels.dtype == torch.uint8
    torch.testing.assert_close(sam.normalise(pixels[None]), seen[0], rtol=0, atol=0)


def test_tokens_of_many_images_equal_the_predictor_image_by_image(
    sam: SamBackbone, embeddings: torch.Tensor
) -> None:
    boxes = [random_boxes(n, *size, seed=n) for n, size in zip((5, 0, 9), SIZES, strict=True)]
    found = sam.tokens(embeddings, boxes, SIZES)
    for i, size in enumerate(SIZES):
        if len(boxes[i]) == 0:
            assert found["transformer"][i].shape == (0, 64)
            continue
        expected = predictor_results(sam, picture(*size), boxes[i])
        for position in ("transformer", "prompt", "mlp"):
            assert (found[position][i] - expected[position]).abs().max() < 1e-4
        torch.testing.assert_close(embeddings[i : i + 1], expected["embedding"], rtol=0, atol=1e-5)


def test_tokens_have_the_declared_widths(sam: SamBackbone) -> None:
    embedding = sam.embed(sam.preprocess(picture(30, 40))[None])
    found = sam.tokens(embedding, [random_boxes(2, 30, 40)], [(30, 40)])
    assert {name: tokens[0].shape[1:] for name, tokens in found.items()} == {
        name: array.shape for name, array in sam.arrays.items()
    }
    assert {name: array.shape for name, array in sam.arrays.items()} == {
        "transformer": (64,),
        "prompt": (128,),
        "mlp": (8,),
    }
    assert all(array.per_box for array in sam.arrays.values())


def test_chunks_do_not_change_tokens(
    sam: SamBackbone, embeddings: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = [random_boxes(4, *size) for size in SIZES]
    whole = sam.tokens(embeddings, boxes, SIZES)["transformer"]
    monkeypatch.setattr(sam_base, "CHUNK_BYTES", {"cpu": 3 * 4 * 64 * 64})  # three boxes at a time
    parts = sam.tokens(embeddings, boxes, SIZES)["transformer"]
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_no_box_at_all_gives_empty_tokens(sam: SamBackbone, embeddings: torch.Tensor) -> None:
    none = np.zeros((0, 4), np.float32)
    found = sam.tokens(embeddings, [none] * 3, SIZES)
    assert [part.shape for part in found["transformer"]] == [(0, 64)] * 3
    assert [part.shape for part in found["mlp"]] == [(0, 8)] * 3


def test_a_very_wide_image_keeps_one_row(sam: SamBackbone) -> None:
    size = (20, 20_000)
    assert sam.resized_size(size) == (1, 128)
    embedding = sam.embed(sam.preprocess(picture(*size))[None])
    [tokens] = sam.tokens(embedding, [np.array([[5, 0, 9000, 20]], np.float32)], [size])["transformer"]
    assert tokens.isfinite().all()
    assert sam.frame_boxes(np.array([[0, 0, 20_000, 20]]), size).tolist() == [[0, 0, 128, 1]]


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 26])
def test_masks_equal_the_predictor(
    sam: SamBackbone, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(sam_base, "CHUNK_BYTES", {"cpu": chunk_bytes})
    image, boxes = picture(90, 131), random_boxes(5, 90, 131)
    expected = predictor_results(sam, image, boxes)
    masks, quality = sam.masks(expected["embedding"], boxes, (90, 131))
    assert masks.dtype == torch.bool
    assert (masks == expected["masks"]).float().mean() > 0.9999
    torch.testing.assert_close(quality, expected["quality"], rtol=0, atol=1e-5)


def test_bf16_tokens_are_close_to_float32() -> None:
    image, boxes = picture(90, 131), random_boxes(6, 90, 131)
    tokens = []
    for precision in ("fp32", "bf16"):
        sam = small_sam(precision=precision)
        embedding = sam.embed(sam.preprocess(image)[None])
        assert embedding.dtype == torch.float32
        tokens.append(sam.tokens(embedding, [boxes], [(90, 131)])["transformer"][0])
    assert torch.cosine_similarity(*tokens).min() > 0.999
    assert not torch.equal(*tokens)


def test_fingerprint_follows_what_decides_the_values() -> None:
    base = small_sam().fingerprint()
    assert json.loads(json.dumps(base)) == base
    assert small_sam().fingerprint() == base
    for other in (small_sam(seed=1), small_sam(precision="bf16")):
        assert other.fingerprint() != base
    assert small_sam(store=("mlp",)).fingerprint() == base  # which arrays there are, not their values


def test_random_weights_depend_on_the_seed_alone() -> None:
    state = torch.random.get_rng_state()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a, b = random_sam(SAM_CONFIG, 3).state_dict(), random_sam(SAM_CONFIG, 3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.random.set_rng_state(state)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert a["image_encoder.blocks.0.attn.rel_pos_h"].std() > 0.01


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_published_sizes_are_those_of_segment_anything(name: str) -> None:
    with torch.device("meta"):
        ours = build_sam(PUBLISHED[name]).state_dict()
        theirs = sam_model_registry[name]().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif("RS_SLOW" not in os.environ, reason="full size: RS_SLOW=1")
@pytest.mark.skipif(not REAL_IMAGES.is_dir(), reason="no real images")
def test_full_size_tokens_equal_the_predictor_on_real_images() -> None:
    sam = SamBackbone(random_sam(PUBLISHED["vit_b"], 0), PUBLISHED["vit_b"], SamSpec(precision="fp32"))
    files = sorted(REAL_IMAGES.rglob("*.jpg"))[:2]
    images = [np.array(Image.open(file).convert("RGB")) for file in files]
    sizes = [image.shape[:2] for image in images]
    boxes = [random_boxes(16, *size, seed=i) for i, size in enumerate(sizes)]
    embeddings = torch.cat([sam.embed(sam.preprocess(image)[None]) for image in images])
    found = sam.tokens(embeddings, boxes, sizes)["transformer"]
    for image, part, tokens in zip(images, boxes, found, strict=True):
        expected = predictor_results(sam, image, part)["transformer"]
        assert (tokens - expected).abs().max() < 1e-4
