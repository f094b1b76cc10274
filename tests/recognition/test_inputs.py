"""Features of one image: each computed at most once, cached ones not at all."""

import numpy as np
import pytest
import torch

from regionspot_cache.backbones import Backbone, SamBackbone
from regionspot_cache.recognition import RegionInputs
from tests.backbones.small import picture, random_boxes, small_clip, small_sam


@pytest.fixture(scope="module")
def backbone(small_backbone: Backbone) -> Backbone:
    sam = small_sam(store=("transformer", "prompt", "mlp", "embedding"))
    return Backbone({"sam": sam, "clip": small_clip(layers=(-1, 0))}, small_backbone.spec)


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
        counted(backbone.parts["sam"], name)
    counted(backbone.parts["clip"], "encode")
    reads = []
    inputs = RegionInputs(backbone, lambda: reads.append(1) or IMAGE, BOXES, size=(40, 60))
    assert inputs.size == (40, 60)
    assert reads == []
    for _ in range(2):
        assert inputs.query("sam/transformer").shape == (3, 64)
        assert inputs.query("sam/prompt").shape == (3, 128)
        assert inputs.memory(("clip/map", "clip/map_0")).shape == (20, 32)
        assert inputs.on(BOXES[:1]).memory(("clip/map_0",)).shape == (10, 32)
        assert inputs.memory(("sam/embedding",)).shape == (64, 64)
        masks = inputs.masks.pixels(range(3))
        assert (masks.shape, masks.dtype) == ((3, 40, 60), bool)
    assert reads == [1]
    assert counts == {"embed": 1, "masks": 1, "encode": 1}


def test_cached_features_replace_the_networks(backbone: Backbone) -> None:
    def never() -> np.ndarray:
        raise AssertionError

    tokens, image_map = np.ones((3, 64), np.float32), np.ones((10, 32), np.float32)
    cached = {"sam/transformer": tokens, "sam/mlp": 2 * tokens, "clip/map": image_map}
    inputs = RegionInputs(backbone, never, BOXES, size=(40, 60), cached=cached)
    torch.testing.assert_close(inputs.query("sam/transformer"), torch.from_numpy(tokens))
    torch.testing.assert_close(inputs.query("sam/mlp"), torch.from_numpy(2 * tokens))
    torch.testing.assert_close(inputs.memory(("clip/map",)), torch.from_numpy(image_map))


def test_cached_arrays_are_of_their_name_only(backbone: Backbone) -> None:
    cached = {"sam/transformer": np.ones((3, 64), np.float32), "clip/map": np.ones((10, 32), np.float32)}
    inputs, fresh = RegionInputs(backbone, IMAGE, BOXES, cached=cached), RegionInputs(backbone, IMAGE, BOXES)
    torch.testing.assert_close(inputs.query("sam/prompt"), fresh.query("sam/prompt"))
    both = inputs.memory(("clip/map_0", "clip/map"))
    torch.testing.assert_close(both[:10], fresh.memory(("clip/map_0",)))
    torch.testing.assert_close(both[10:], torch.ones(10, 32))  # the pass for the other map did not replace it


def test_other_boxes_of_an_image_read_what_is_cached_of_them(backbone: Backbone) -> None:
    cached = {"sam/transformer": np.ones((3, 64), np.float32), "clip/map": np.ones((10, 32), np.float32)}
    maps = {path: values for path, values in cached.items() if path == "clip/map"}
    other = RegionInputs(backbone, IMAGE, BOXES, cached=cached).on(BOXES[:2], maps)
    torch.testing.assert_close(other.memory(("clip/map",)), torch.ones(10, 32))
    expected = RegionInputs(backbone, IMAGE, BOXES[:2]).query("sam/transformer")
    torch.testing.assert_close(other.query("sam/transformer"), expected)


def test_features_are_those_of_the_networks(backbone: Backbone) -> None:
    inputs, (sam, clip) = RegionInputs(backbone, IMAGE, BOXES), backbone.parts.values()
    assert isinstance(sam, SamBackbone)
    embedding = sam.embed(sam.preprocess(IMAGE)[None])
    tokens = sam.tokens(embedding, [BOXES], [(40, 60)])["transformer"][0]
    torch.testing.assert_close(inputs.query("sam/transformer"), tokens)
    maps = clip.encode(clip.preprocess(IMAGE)[None], [BOXES], [(40, 60)])
    expected = torch.cat([maps["map_0"][0], maps["map"][0]])
    torch.testing.assert_close(inputs.memory(("clip/map_0", "clip/map")), expected)
    np.testing.assert_array_equal(
        inputs.masks.pixels(range(3)), sam.masks(embedding, BOXES, (40, 60))[0].numpy()
    )
