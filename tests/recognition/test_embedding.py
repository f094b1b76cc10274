"""Methods that embed every box, against what they are made of."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from regionspot_cache.backbones import (
    Backbone,
    BackboneSpec,
    ClipBackbone,
    ClipSpec,
    RegionClip,
    RegionClipSpec,
    SamSpec,
)
from regionspot_cache.backbones.clip_values import pool_boxes
from regionspot_cache.errors import UsageError
from regionspot_cache.recognition import ClipCrops, RegionInputs, embedding_method, with_networks_of
from regionspot_cache.recognition.embedding import (
    BOX_CONTEXT,
    MASK_CONTEXT,
    PACKAGED,
    crop_window,
)
from tests.backbones.small import picture, random_boxes, small_clip, small_regionclip, small_sam

NAMES = ("clip-box", "clip-mask", "clip-roi", "clip-roi-mask", "regionclip")
SIZE = (40, 60)
BOXES = random_boxes(5, *SIZE)
IMAGE = picture(*SIZE)
TEXT = normalize(torch.randn(7, 24, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    parts = {"sam": small_sam(), "clip": small_clip(values=True), "teacher": small_regionclip()}
    return Backbone(parts, BackboneSpec(parts={name: part.spec for name, part in parts.items()}))


def inputs_of(backbone: Backbone, boxes: np.ndarray = BOXES, **more: object) -> RegionInputs:
    return RegionInputs(backbone, IMAGE, boxes, **more)


def likely(embeddings: torch.Tensor, scale: float) -> np.ndarray:
    return (scale * normalize(embeddings, dim=-1) @ TEXT.T).softmax(-1).numpy()


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("masked", [False, True])
def test_crops_are_what_clip_says_of_each_crop(
    masked: bool, batch: int, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regionspot_cache.recognition.embedding.CPU_BATCH", batch)
    inputs, clip = inputs_of(backbone), backbone.parts["clip"]
    assert isinstance(clip, ClipBackbone)
    found = ClipCrops(backbone.text, masked=masked).probabilities(inputs, TEXT)
    for i, box in enumerate(BOXES):
        x0, y0, x1, y1 = crop_window(box, SIZE, MASK_CONTEXT if masked else BOX_CONTEXT)
        crop = IMAGE[y0:y1, x0:x1].copy()
        if masked:
            outside = ~inputs.masks.pixels([i])[0, y0:y1, x0:x1]
            crop[outside] = np.round(255 * np.array(clip.parts.mean))
        with torch.inference_mode():
            expected = likely(clip.encode_image(clip.preprocess(crop)[None]), clip.logit_scale)[0]
        np.testing.assert_allclose(found[i], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["clip-box", "clip-mask", "clip-roi", "clip-roi-mask", "regionclip"])
def test_a_batch_gives_each_image_what_it_gets_alone(name: str, backbone: Backbone) -> None:
    method, none = embedding_method(name, backbone), np.zeros((0, 4), np.float32)
    images = [inputs_of(backbone, boxes) for boxes in (BOXES[:1], none, BOXES, none)]
    found = method.embed(images)
    for embeddings, inputs in zip(found, images, strict=True):
        assert embeddings.shape == (len(inputs.boxes), found[0].shape[1])
    for i in (0, 2):
        torch.testing.assert_close(found[i], method.embed([images[i]])[0], rtol=1e-4, atol=1e-5)
        expected = method.scores(found[i], TEXT).numpy()
        np.testing.assert_allclose(method.probabilities(images[i], TEXT), expected, rtol=1e-4, atol=1e-6)


def test_roi_pools_the_values_of_the_image(backbone: Backbone) -> None:
    clip, method = backbone.parts["clip"], embedding_method("clip-roi", backbone)
    assert isinstance(clip, ClipBackbone)
    assert (method.reads, method.text_part) == (("clip/values",), "clip")
    [values] = clip.encode(clip.preprocess(IMAGE)[None])["values"]
    expected = likely(pool_boxes(values, (3, 3), BOXES, SIZE), clip.logit_scale)
    np.testing.assert_allclose(method.probabilities(inputs_of(backbone), TEXT), expected, rtol=1e-4)
    cached = inputs_of(backbone, cached={"clip/values": values.numpy() * -1})
    turned = likely(-pool_boxes(values, (3, 3), BOXES, SIZE), clip.logit_scale)
    np.testing.assert_allclose(method.probabilities(cached, TEXT), turned, rtol=1e-4)


def test_masked_roi_weighs_cells_by_their_share_of_the_mask(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells of 60 / 3 columns; a mask that is empty falls back on the box."""
    masks = np.zeros((3, 30, 60), bool)
    masks[0, :10, :20] = True  # the first cell
    masks[1, 5:10, 10:40] = True  # a quarter of it and half of the next
    boxes = random_boxes(3, 30, 60)
    inputs = RegionInputs(backbone, picture(30, 60), boxes)
    monkeypatch.setattr(inputs, "_decode_masks", lambda boxes: torch.from_numpy(masks[boxes]))
    values = inputs.memory(("clip/values",))
    found = embedding_method("clip-roi-mask", backbone).embed([inputs])[0]
    torch.testing.assert_close(found[0], values[0])
    torch.testing.assert_close(found[1], (values[0] * 0.25 + values[1] * 0.5) / 0.75)
    torch.testing.assert_close(found[2:], pool_boxes(values, (3, 3), boxes[2:], (30, 60)))


def test_regionclip_gives_the_background_its_share(backbone: Backbone) -> None:
    network, method = backbone.parts["teacher"], embedding_method("regionclip", backbone)
    assert isinstance(network, RegionClip)
    assert (method.reads, method.text_part) == (("teacher/region",), "teacher")
    [region] = network.encode(network.preprocess(IMAGE)[None], [BOXES], [SIZE])["region"]
    similarities = (normalize(region, dim=-1) @ TEXT.T).double().numpy()
    odds = np.exp(similarities / 0.01)
    expected = odds / (odds.sum(1, keepdims=True) + 1)  # the background: e^0
    found = method.probabilities(inputs_of(backbone), TEXT)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)
    dissimilar = method.probabilities(inputs_of(backbone), -normalize(region, dim=-1)[:1])
    assert dissimilar[0, 0] < 1e-6  # a single class is not certain


@pytest.mark.parametrize("name", NAMES)
def test_every_method_has_its_name_and_takes_no_boxes(name: str, backbone: Backbone) -> None:
    method = embedding_method(name, backbone)
    assert method.name == name
    found = method.probabilities(inputs_of(backbone), TEXT)
    assert found.dtype == np.float32
    assert (found >= 0).all()
    assert (found.sum(1) <= 1 + 1e-5).all()
    none = inputs_of(backbone, np.zeros((0, 4), np.float32))
    assert method.probabilities(none, TEXT).shape == (0, 7)


@pytest.mark.parametrize(("name", "needed"), [("clip-roi", "values: true"), ("regionclip", "regionclip")])
def test_a_backbone_without_the_network_is_refused(name: str, needed: str) -> None:
    parts = {"sam": small_sam(), "clip": small_clip()}
    backbone = Backbone(parts, BackboneSpec(parts={n: part.spec for n, part in parts.items()}))
    with pytest.raises(UsageError, match=rf"--method {name}: (.|\n)*{needed}"):
        embedding_method(name, backbone)


def test_methods_bring_the_networks_that_they_need() -> None:
    plain = BackboneSpec(parts={"sam": SamSpec(), "clip": ClipSpec(model="ViT-B-16-quickgelu")})
    assert with_networks_of(["regionspot", "clip-box"], plain) == plain
    clip = with_networks_of(["clip-roi-mask"], plain).parts["clip"]
    assert clip == replace(plain.parts["clip"], values=True)
    added = with_networks_of(["regionclip"], plain)
    assert added.parts["regionclip"] == RegionClipSpec()
    own = RegionClipSpec(model="RN50-quickgelu", weights="file.pth")
    assert with_networks_of(["regionclip"], plain, own).parts["regionclip"] == own
    there = plain.with_parts(teacher=own)
    assert with_networks_of(["regionclip"], there) == there
    small = plain.with_parts(clip=ClipSpec(model="packaged", weights="included"))
    assert with_networks_of(["regionclip"], small).parts["regionclip"] == PACKAGED


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
