"""Counted operations against published figures and against each other."""

import pytest

from regionspot_cache.backbones.costs import clip_cost, sam_cost
from regionspot_cache.backbones.presets import ClipSpec, SamSpec
from tests.backbones.small import small_clip


@pytest.mark.parametrize(
    ("model", "gflops"),
    # open_clip's docs/model_profile.csv, the image tower
    [("ViT-B-16", 35.13), ("ViT-L-14", 162.03), ("ViT-L-14-336", 381.92)],
)
def test_clip_towers_cost_what_open_clip_publishes(model: str, gflops: float) -> None:
    cost = clip_cost(ClipSpec(model=model, weights="openai"))  # not fetched, and its GELU does not matter
    assert cost.image_gflops == pytest.approx(gflops, rel=2e-3)
    assert (cost.prefix_tokens, cost.text_width) == (1, 512 if "B" in model else 768)


@pytest.mark.parametrize(
    ("model", "gmac", "tolerance"),
    # ViT-B by hand: linear layers 363, attention 115, relative positions 2.5, patches and neck 5.6.
    # ViT-H by the same sum; EfficientViT-SAM's paper has 2973 without relative positions.
    # MobileSAM: EdgeSAM's README.
    [("vit_b", 486.0, 2e-3), ("vit_h", 2980.5, 2e-3), ("mobile_sam", 38.2, 0.03)],
)
def test_sam_encoders_cost_what_is_known(model: str, gmac: float, tolerance: float) -> None:
    cost = sam_cost(SamSpec(model=model))
    assert cost.image_gflops == pytest.approx(2 * gmac, rel=tolerance)
    assert cost.token_dims == {"transformer": 256}
    # Through SAM's own decoder a token takes 2.80; here the image's share is paid once an image.
    assert 0.5 < cost.box_gflops < 1.4


def test_a_layer_in_the_middle_costs_part() -> None:
    whole, part = (clip_cost(ClipSpec(model="ViT-B-16", layer=layer)).image_gflops for layer in (-1, 5))
    assert part == pytest.approx(whole / 2, rel=0.02)


def test_a_higher_resolution_costs_more() -> None:
    cost = clip_cost(ClipSpec(model="ViT-B-16", image_size=448))
    assert (cost.image_size, cost.grid) == (448, (28, 28))
    assert cost.image_gflops > 4 * 35


def build(spec: ClipSpec, device: str) -> object:
    assert device == "cpu"
    assert spec.weights == "mine"
    return small_clip()


def test_a_network_of_ones_own_is_run_once() -> None:
    cost = clip_cost(ClipSpec(model=f"{__name__}:build", weights="mine"))
    linear = 3 * 12 * 10 * 32**2 + 3 * 2 * 10**2 * 32 + 9 * 3 * 16**2 * 32  # blocks, attention, patches
    assert cost.image_gflops == pytest.approx(2 * linear / 1e9, rel=1e-6)
    assert (cost.grid, cost.width, cost.text_width) == ((3, 3), 32, 24)
