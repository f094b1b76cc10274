"""MobileSAM's image encoder: its published structure, and timm's blocks of the same network."""

import copy
import hashlib
import json

import pytest
import torch
from segment_anything import SamPredictor
from timm.models import tiny_vit
from torch import Tensor, nn

from regionspot_cache.backbones.mobile_sam import TinyVitEncoder
from regionspot_cache.backbones.presets import SamSpec
from regionspot_cache.backbones.sam import SamBackbone
from regionspot_cache.backbones.sam_build import PUBLISHED, build_sam, random_sam
from tests.backbones.small import SAM_CONFIG, picture, random_boxes

SMALL = {key: part for key, part in copy.deepcopy(SAM_CONFIG).items() if key != "image_encoder"} | {
    "tiny_vit": {
        "img_size": 128,
        "embed_dims": [16, 24, 32, 40],
        "depths": [2, 1, 2, 1],
        "num_heads": [1, 3, 2, 5],
        "window_sizes": [7, 7, 5, 7],
        "out_chans": 64,
    }
}


def trained(network: nn.Module, seed: int = 0) -> nn.Module:
    """As if trained: no parameter and no statistic is what it starts from."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2, generator=generator)
            elif value.dtype.is_floating_point and value.ndim <= 2:
                value.normal_(std=0.3, generator=generator).add_(name.endswith("weight") and value.ndim == 1)
    return network.eval()


def test_names_and_shapes_are_those_of_the_published_encoder() -> None:
    """Count and digest were taken from the published code, with which its checkpoint loads strictly."""
    with torch.device("meta"):
        state = build_sam(PUBLISHED["mobile_sam"]).state_dict()
        decoder = build_sam(PUBLISHED["vit_b"]).state_dict()
    prefix = "image_encoder."
    encoder = sorted(
        (k.removeprefix(prefix), list(v.shape)) for k, v in state.items() if k.startswith(prefix)
    )
    assert len(encoder) == 302
    assert hashlib.sha256(json.dumps(encoder).encode()).hexdigest().startswith("533fdbe35837bb30")
    rest = {k: v.shape for k, v in state.items() if not k.startswith(prefix)}
    assert rest == {k: v.shape for k, v in decoder.items() if not k.startswith(prefix)}
    assert len(state) == 439


def renamed(ours: nn.Module) -> dict[str, Tensor]:
    """A state dict by timm's names, whose convolutions are called "conv"."""
    return {name.replace(".c.", ".conv."): value for name, value in ours.state_dict().items()}


@pytest.mark.parametrize(("stage", "window", "side"), [(1, 7, 32), (2, 5, 16), (3, 7, 7)])
def test_attention_blocks_equal_those_of_timm(stage: int, window: int, side: int) -> None:
    """With windows that do not fill the grid, and with one that is all of it."""
    settings = SMALL["tiny_vit"]
    dim, heads = settings["embed_dims"][stage], settings["num_heads"][stage]
    ours = trained(TinyVitEncoder(**settings).layers[stage]).blocks[0]
    theirs = tiny_vit.TinyVitBlock(dim, heads, window_size=window).eval()
    theirs.load_state_dict(renamed(ours))
    x = torch.randn(2, dim, side, side)
    expected = theirs(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4)


def test_convolutions_equal_those_of_timm() -> None:
    encoder = trained(TinyVitEncoder(**SMALL["tiny_vit"]))
    x = torch.randn(2, 16, 8, 8)
    bottleneck = tiny_vit.MBConv(16, 16, 4.0, nn.GELU, 0.0).eval()
    bottleneck.load_state_dict(renamed(encoder.layers[0].blocks[0]))
    reduction = tiny_vit.PatchMerging(16, 24, nn.GELU).eval()
    reduction.load_state_dict(renamed(encoder.layers[0].downsample))
    stem = tiny_vit.PatchEmbed(3, 16, nn.GELU).eval()
    stem.load_state_dict(
        {
            k.removeprefix("seq.").replace("0.", "conv1.", 1).replace("2.", "conv2.", 1): v
            for k, v in renamed(encoder.patch_embed).items()
        }
    )
    pixels = torch.randn(2, 3, 32, 32)
    for ours, theirs, given in (
        (encoder.layers[0].blocks[0], bottleneck, x),
        (encoder.layers[0].downsample, reduction, x),
        (encoder.patch_embed, stem, pixels),
    ):
        torch.testing.assert_close(ours(given), theirs(given), rtol=1e-4, atol=1e-4)


def test_the_grid_is_that_of_sam() -> None:
    encoder = TinyVitEncoder(**SMALL["tiny_vit"]).eval()
    assert encoder(torch.zeros(1, 3, 128, 128)).shape == (1, 64, 8, 8)
    published = PUBLISHED["mobile_sam"]["tiny_vit"]
    assert published["img_size"] == 1024
    assert published["embed_dims"][-1] == 320


def test_tokens_and_masks_equal_the_predictor() -> None:
    """segment_anything's own path, which asks nothing of an encoder but its size and its output."""
    network = random_sam(SMALL, 0)
    sam = SamBackbone(network, SMALL, SamSpec(model="mobile_sam", weights="random:0", precision="fp32"))
    image, boxes = picture(90, 131), random_boxes(5, 90, 131)
    predictor = SamPredictor(network)
    predictor.set_image(image)
    caught = []
    hook = network.mask_decoder.transformer.register_forward_hook(
        lambda m, i, out: caught.append(out[0][:, 1])
    )
    framed = torch.from_numpy(predictor.transform.apply_boxes(boxes, (90, 131))).float()
    expected, _, _ = predictor.predict_torch(None, None, framed, multimask_output=False)
    hook.remove()
    embedding = sam.embed(sam.preprocess(image)[None])
    [tokens] = sam.tokens(embedding, [boxes], [(90, 131)])["transformer"]
    assert (tokens - caught[0]).abs().max() < 1e-4
    assert (sam.masks(embedding, boxes, (90, 131))[0] == expected[:, 0]).float().mean() > 0.999


def test_it_never_passes_for_sam() -> None:
    sam = SamBackbone(random_sam(SMALL, 0), SMALL, SamSpec(model="mobile_sam"))
    found = sam.fingerprint()
    assert json.loads(json.dumps(found)) == found
    assert found["model"] == "mobile_sam"
    assert "tiny_vit" in found["architecture"]
