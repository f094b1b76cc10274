"""RegionSpot against what it is made of."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from regionspot_cache.backbones import Backbone
from regionspot_cache.recognition import RegionInputs, RegionSpot
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
    probabilities = method.probabilities(inputs, TEXT)
    np.testing.assert_allclose(probabilities, expected.softmax(-1).numpy(), rtol=1e-5)
    assert probabilities.dtype == np.float32


def test_attention_is_a_distribution_over_the_map(backbone: Backbone, head: RegionHead) -> None:
    weights = RegionSpot(head).attention(inputs_of(backbone))
    assert weights.shape == (2, 5, 10)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


def test_no_boxes_no_probabilities(backbone: Backbone, head: RegionHead) -> None:
    found = RegionSpot(head).probabilities(inputs_of(backbone, np.zeros((0, 4), np.float32)), TEXT)
    assert found.shape == (0, 7)
