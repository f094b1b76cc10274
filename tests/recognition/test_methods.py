"""Recognition methods against what they are made of."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from regionspot_cache.backbones import Backbone, ClipBackbone
from regionspot_cache.recognition import ClipCrops, RegionInputs, RegionSpot
from regionspot_cache.recognition.methods import BOX_CONTEXT, MASK_CONTEXT, crop_window
from regionspot_cache.training.head import RegionHead
from tests.backbones.small import picture, random_boxes, small_clip, small_sam

BOXES = random_boxes(5, 40, 60)
IMAGE = picture(40, 60)
TEXT = normalize(torch.randn(7, 24, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.fixture(scope="module")
def backbone(small_backbone: Backbone) -> Backbone:
    return Backbone({"sam": small_sam(), "clip": small_clip()}, small_backbone.spec)


def inputs_of(backbone: Backbone, boxes: np.ndarray = BOXES) -> RegionInputs:
    return RegionInputs(backbone, IMAGE, boxes)


def test_regionspot_is_the_head_on_tokens_and_map(backbone: Backbone, head: RegionHead) -> None:
    method, inputs = RegionSpot(head), inputs_of(backbone)
    found = method.logits(inputs, TEXT)
    assert not head.training
    mask = torch.ones(1, 5, dtype=torch.bool)
    with torch.inference_mode():
        expected = head.logits(
            head(inputs.query("sam/transformer")[None], inputs.memory(("clip/map",))[None], mask), TEXT
        )[0]
    torch.testing.assert_close(found, expected)
    assert found.shape == (5, 7)


def test_attention_is_a_distribution_over_the_map(backbone: Backbone, head: RegionHead) -> None:
    weights = RegionSpot(head).attention(inputs_of(backbone))
    assert weights.shape == (2, 5, 10)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("masked", [False, True])
def test_crops_are_what_clip_says_of_each_crop(
    masked: bool, batch: int, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regionspot_cache.recognition.methods.CPU_BATCH", batch)
    inputs, clip = inputs_of(backbone), backbone.parts["clip"]
    assert isinstance(clip, ClipBackbone)
    found = ClipCrops(masked=masked).logits(inputs, TEXT)
    for i, box in enumerate(BOXES):
        x0, y0, x1, y1 = crop_window(box, (40, 60), MASK_CONTEXT if masked else BOX_CONTEXT)
        crop = IMAGE[y0:y1, x0:x1].copy()
        if masked:
            outside = ~inputs.masks[0][i, y0:y1, x0:x1]
            crop[outside] = np.round(255 * np.array(clip.parts.mean))
        with torch.inference_mode():
            embedding = normalize(clip.encode_image(clip.preprocess(crop)[None]), dim=-1)
        torch.testing.assert_close(found[i], clip.logit_scale * (embedding @ TEXT.T)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["regionspot", "clip-box", "clip-mask"])
def test_no_boxes_no_logits(name: str, backbone: Backbone, head: RegionHead) -> None:
    method = RegionSpot(head) if name == "regionspot" else ClipCrops(masked=name == "clip-mask")
    assert method.name == name
    assert method.logits(inputs_of(backbone, np.zeros((0, 4), np.float32)), TEXT).shape == (0, 7)


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    st.sampled_from([BOX_CONTEXT, MASK_CONTEXT]),
)
def test_crop_windows_hold_the_box_and_lie_in_the_image(
    width: int, height: int, unit: list[float], context: float
) -> None:
    xs, ys = sorted((unit[0] * width, unit[1] * width)), sorted((unit[2] * height, unit[3] * height))
    box = np.array([xs[0], ys[0], xs[1], ys[1]], np.float32)
    x0, y0, x1, y1 = crop_window(box, (height, width), context)
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    assert x0 <= box[0] or x0 == width - 1
    assert y1 >= np.floor(box[3])
    assert x1 - x0 <= context * (box[2] - box[0]) + 3
    assert y1 - y0 <= context * (box[3] - box[1]) + 3
