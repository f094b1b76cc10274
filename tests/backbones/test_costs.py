"""Counted operations against published figures and against each other."""

import pytest

from regionspot_cache.backbones import ClipBackbone
from regionspot_cache.backbones.costs import network_cost
from regionspot_cache.backbones.presets import ClipSpec, OwnSpec, SamSpec
from tests.backbones.small import small_clip


@pytest.mark.parametrize(
    ("model", "gflops"),
    # open_clip's docs/model_profile.csv, the image tower
    [("ViT-B-16", 35.13), ("ViT-L-14", 162.03), ("ViT-L-14-336", 381.92)],
)
def test_clip_towers_cost_what_open_clip_publishes(model: str, gflops: float) -> None:
    cost = network_cost(ClipSpec(model=model, weights="openai"))  # not fetched, and its GELU does not matter
    assert cost.image_gflops == pytest.approx(gflops, rel=2e-3)
    found = cost.arrays["map"]
    assert found.grid is not None
    assert found.shape == (1 + found.grid[0] * found.grid[1], 768 if "B" in model else 1024)
    assert cost.box_gflops == 0


@pytest.mark.parametrize(
    ("model", "gmac", "tolerance"),
    # ViT-B by hand: linear layers 363, attention 115, relative positions 2.5, patches and neck 5.6; without
    # the 15.2 of queries, keys and values of windows' padding. ViT-H by the same sum, without 147.6;
    # EfficientViT-SAM's paper has 2973 with them and without relative positions.
    # MobileSAM: EdgeSAM's README.
    [("vit_b", 470.8, 6e-3), ("vit_h", 2832.9, 6e-3), ("mobile_sam", 38.2, 0.03)],
)
def test_sam_encoders_cost_what_is_known(model: str, gmac: float, tolerance: float) -> None:
    cost = network_cost(SamSpec(model=model))
    assert cost.image_gflops == pytest.approx(2 * gmac, rel=tolerance)
    assert {name: (array.shape, array.per_box) for name, array in cost.arrays.items()} == {
        "transformer": ((256,), True)
    }
    # Through SAM's own decoder a token takes 2.80; here the image's share is paid once an image.
    assert 0.5 < cost.box_gflops < 1.4


def test_a_layer_in_the_middle_costs_half() -> None:
    whole, half = (
        network_cost(ClipSpec(model="ViT-B-16", layers=(layer,))).image_gflops for layer in (-1, 5)
    )
    assert half == pytest.approx(whole / 2, rel=0.02)


def test_a_higher_resolution_costs_more() -> None:
    cost = network_cost(ClipSpec(model="ViT-B-16", image_size=448))
    assert (cost.input_size, cost.arrays["map"].grid) == ((448, 448), (28, 28))
    assert cost.image_gflops > 4 * 35


def test_two_layers_of_a_network_cost_one_pass() -> None:
    last, both = (network_cost(ClipSpec(model="ViT-B-16", layers=layers)) for layers in ((-1,), (-1, 5)))
    assert both.image_gflops == last.image_gflops
    assert list(both.arrays) == ["map", "map_5"]


def build(spec: OwnSpec, device: str) -> ClipBackbone:
    assert device == "cpu"
    assert spec.weights == "mine"
    return small_clip()


def test_a_network_of_ones_own_is_run_once() -> None:
    cost = network_cost(OwnSpec(network=f"{__name__}:build", weights="mine"))
    linear = 3 * 12 * 10 * 32**2 + 3 * 2 * 10**2 * 32 + 9 * 3 * 16**2 * 32  # blocks, attention, patches
    assert cost.image_gflops == pytest.approx(2 * linear / 1e9, rel=1e-6)
    assert (cost.arrays["map"].grid, cost.arrays["map"].shape) == ((3, 3), (10, 32))
    assert cost.input_size == (48, 48)
