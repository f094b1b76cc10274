"""Features of one image: each computed at most once, cached ones not at all."""

import numpy as np
import pytest
import torch

from regionspot_cache.backbones import Backbone
from regionspot_cache.recognition import RegionInputs
from tests.backbones.small import picture, random_boxes, small_clip, small_sam


@pytest.fixture(scope="module")
def backbone(small_backbone: Backbone) -> Backbone:
    return Backbone(small_sam(), small_clip(), small_backbone.spec)


BOXES = random_boxes(3, 40, 60)
IMAGE = picture(40, 60)


def test_every_feature_is_computed_once(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: dict[str, int] = {}

    def counted(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: object, **kwargs: object) -> object:
            counts[name] = counts.get(name, 0) + 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for name in ("embed", "masks"):
        counted(backbone.sam, name)
    counted(backbone.clip, "encode_map")
    reads = []
    inputs = RegionInputs(backbone, lambda: reads.append(1) or IMAGE, BOXES, size=(40, 60))
    assert inputs.size == (40, 60)
    assert reads == []
    for _ in range(2):
        assert inputs.tokens().shape == (3, 64)
        assert inputs.tokens("prompt").shape == (3, 128)
        assert inputs.map.shape == (10, 32)
        masks, quality = inputs.masks
        assert (masks.shape, masks.dtype) == ((3, 40, 60), bool)
        assert (quality.shape, quality.dtype) == ((3,), np.float32)
        assert isinstance(masks, np.ndarray)
    assert reads == [1]
    assert counts == {"embed": 1, "masks": 1, "encode_map": 1}


def test_cached_features_replace_the_networks(backbone: Backbone) -> None:
    def never() -> np.ndarray:
        raise AssertionError

    tokens, image_map = np.ones((3, 64), np.float32), np.ones((10, 32), np.float32)
    by_position = {"transformer": tokens, "mlp": 2 * tokens}
    inputs = RegionInputs(
        backbone, never, BOXES, size=(40, 60), cached_map=image_map, cached_tokens=by_position
    )
    torch.testing.assert_close(inputs.tokens(), torch.from_numpy(tokens))
    torch.testing.assert_close(inputs.tokens("mlp"), torch.from_numpy(2 * tokens))
    torch.testing.assert_close(inputs.map, torch.from_numpy(image_map))


def test_cached_tokens_are_of_their_position_only(backbone: Backbone) -> None:
    tokens = {"transformer": np.ones((3, 64), np.float32)}
    inputs = RegionInputs(backbone, IMAGE, BOXES, cached_tokens=tokens)
    fresh = RegionInputs(backbone, IMAGE, BOXES)
    torch.testing.assert_close(inputs.tokens("prompt"), fresh.tokens("prompt"))


def test_features_are_those_of_the_networks(backbone: Backbone) -> None:
    inputs, sam, clip = RegionInputs(backbone, IMAGE, BOXES), backbone.sam, backbone.clip
    embedding = sam.embed(sam.preprocess(IMAGE)[None])
    torch.testing.assert_close(inputs.tokens(), sam.tokens(embedding, [BOXES], [(40, 60)])["transformer"][0])
    torch.testing.assert_close(inputs.map, clip.encode_map(clip.preprocess(IMAGE)[None])[0])
    np.testing.assert_array_equal(inputs.masks[0], sam.masks(embedding, BOXES, (40, 60))[0].numpy())
