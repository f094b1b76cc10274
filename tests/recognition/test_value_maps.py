"""Which part of a backbone `clip-roi` and `clip-roi-mask` pool: by its arrays, whatever its network."""

from dataclasses import replace
from typing import Any

import pytest

from regionspot_cache.backbones import (
    Array,
    Backbone,
    BackboneSpec,
    ClipSpec,
    HeadInputs,
    OwnSpec,
    SamSpec,
    Tipsv2Spec,
)
from regionspot_cache.errors import UsageError
from regionspot_cache.recognition import embedding_method, with_networks_of
from tests.backbones.small import small_clip, small_sam

ROI = ["clip-roi", "clip-roi-mask"]


def with_values(**parts: Any) -> dict[str, bool]:
    """Which of these parts are asked for the array."""
    spec = BackboneSpec(parts=parts, head=HeadInputs(query="box/position", memory=()))
    found = with_networks_of(["clip-roi-mask"], spec).parts
    return {name: part.values for name, part in found.items() if isinstance(part, ClipSpec | Tipsv2Spec)}


class OwnNetwork:
    """A network of the user's own; it has what a `TextEncoder` has, and the arrays that are given."""

    def __init__(self, **arrays: Array) -> None:
        clip, self.arrays = small_clip(), arrays
        self.device, self.mean, self.logit_scale = clip.device, clip.mean, clip.logit_scale
        self.preprocess, self.text_fingerprint = clip.preprocess, clip.text_fingerprint
        self.encode_image, self.encode_text = clip.encode_image, clip.encode_text


def test_the_first_able_part_is_asked_unless_one_has_the_array() -> None:
    tips, clip, own = Tipsv2Spec(), ClipSpec(), OwnSpec(network="a:b")
    assert with_values(sam=SamSpec(), tips=tips, clip=clip) == {"tips": True, "clip": False}
    assert with_values(clip=clip, tips=tips) == {"clip": True, "tips": False}
    assert with_values(tips=tips, clip=replace(clip, values=True)) == {"tips": False, "clip": True}
    assert with_values(own=own) == {}
    with pytest.raises(UsageError, match="no clip part"):
        with_values(sam=SamSpec())


@pytest.mark.parametrize("name", ROI)
def test_any_text_encoder_with_the_array_on_a_grid_will_do(name: str) -> None:
    values = Array(shape=(9, 24), grid=(3, 3))
    networks = {
        "sam": small_sam(),
        "clip": small_clip(),  # has no such array
        "flat": OwnNetwork(values=replace(values, grid=None)),
        "own": OwnNetwork(values=values),
        "other": small_clip(values=True),
    }
    method = embedding_method(name, Backbone(networks, BackboneSpec()))
    assert (method.name, method.reads, method.text_part) == (name, ("own/values",), "own")


@pytest.mark.parametrize("name", ROI)
def test_without_one_the_error_says_what_part_is_needed(name: str) -> None:
    backbone = Backbone({"sam": small_sam(), "clip": small_clip()}, BackboneSpec())
    with pytest.raises(UsageError, match=rf"{name}: .* no network for it[\s\S]*tipsv2, values: true"):
        embedding_method(name, backbone)
