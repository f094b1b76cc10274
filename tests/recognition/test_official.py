"""The official inference path against its steps written out plainly."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from segment_anything.utils.transforms import ResizeLongestSide
from torch.nn.functional import normalize

from regionspot_cache.backbones import PRESETS, Backbone, Encoder, HeadInputs, SamBackbone
from regionspot_cache.errors import UsageError
from regionspot_cache.recognition import OfficialRegionSpot, RegionInputs, RegionSpot
from regionspot_cache.recognition.official import resize_short_side, resized_size
from regionspot_cache.training.head import RegionHead
from tests.backbones.small import picture, small_clip, small_sam

IMAGE = picture(30, 45)
BOXES = np.array([[3, 4, 20, 25], [10.5, 2, 44, 29.5], [0, 0, 45, 30]], np.float32)
TEXT = normalize(torch.randn(7, 24, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone({"sam": small_sam(), "clip": small_clip()}, PRESETS["tiny"])


def short_side(height: int, width: int, size: int = 800, limit: int = 1333) -> tuple[int, int]:
    """Two steps: the short side to `size`, then the long side to `limit` if it is longer."""
    scale = size / min(height, width)
    new_h, new_w = (size, scale * width) if height < width else (scale * height, size)
    if max(new_h, new_w) > limit:
        scale = limit / max(new_h, new_w)
        new_h, new_w = new_h * scale, new_w * scale
    return int(new_h + 0.5), int(new_w + 0.5)


def test_sizes_are_those_of_the_two_steps() -> None:
    generator = np.random.default_rng(0)
    sizes = [(480, 640), (800, 800), (427, 640), (1200, 300), (1, 1), *generator.integers(20, 4000, (500, 2))]
    for height, width in sizes:
        assert resized_size(int(height), int(width)) == short_side(int(height), int(width))
    assert resized_size(480, 640) == (800, 1067)
    assert resized_size(100, 1000) == (133, 1333)
    assert resized_size(1, 5000) == (1, 1333)


def expected_logits(backbone: Backbone, head: RegionHead) -> torch.Tensor:
    """From the network classes themselves: every step with the functions that the official code calls."""
    sam, clip = backbone.parts["sam"], backbone.parts["clip"]
    assert isinstance(sam, SamBackbone)
    height, width = short_side(*IMAGE.shape[:2])
    image = np.asarray(Image.fromarray(IMAGE).resize((width, height), Image.Resampling.BILINEAR))
    boxes = BOXES * [width / 45, height / 30, width / 45, height / 30]
    transform = ResizeLongestSide(sam.image_size)
    network, low = sam.network, torch.from_numpy(transform.apply_image(image)).permute(2, 0, 1)
    framed = torch.from_numpy(transform.apply_boxes(boxes, (height, width))).float()
    with torch.inference_mode():
        embedding = network.image_encoder(network.preprocess(low)[None])
        sparse, dense = network.prompt_encoder(points=None, boxes=framed, masks=None)
        decoder = network.mask_decoder
        special = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        queries = torch.cat([special.expand(len(BOXES), -1, -1), sparse], dim=1)
        out, _ = decoder.transformer(
            embedding.expand(len(BOXES), -1, -1, -1) + dense,
            network.prompt_encoder.get_dense_pe().expand(len(BOXES), -1, -1, -1),
            queries,
        )
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255
        small = F.interpolate(pixels, (48, 48), mode="bilinear", align_corners=False, antialias=False)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
        embeddings = head(
            out[None, :, 1], clip.encode((small - mean) / std, [BOXES], [IMAGE.shape[:2]])["map"]
        )[0]
        return 100 * normalize(embeddings, dim=-1) @ TEXT.T


def test_it_follows_the_official_steps(backbone: Backbone, head: RegionHead) -> None:
    method = OfficialRegionSpot(head)
    inputs = RegionInputs(backbone, IMAGE, BOXES)
    found = method.logits(inputs, TEXT)
    torch.testing.assert_close(found, expected_logits(backbone, head), rtol=1e-3, atol=2e-3)
    ours = RegionSpot(head).logits(inputs, TEXT)
    assert (found - ours).abs().max() > 0.05  # the other resizing does change what is said
    assert (method.name, method.score_rule) == ("official", "official")
    assert not head.training


def test_cached_features_are_never_used(backbone: Backbone, head: RegionHead) -> None:
    cached = RegionInputs(
        backbone,
        lambda: IMAGE,
        BOXES,
        size=(30, 45),
        cached={
            "clip/map": np.full((10, 32), np.nan, np.float32),
            "sam/transformer": np.full((3, 64), np.nan, np.float32),
        },
    )
    method = OfficialRegionSpot(head)
    found = method.logits(cached, TEXT)
    assert torch.equal(found, method.logits(RegionInputs(backbone, IMAGE, BOXES), TEXT))


def test_no_boxes_no_logits(backbone: Backbone, head: RegionHead) -> None:
    def never() -> np.ndarray:
        raise AssertionError

    nothing = RegionInputs(backbone, never, np.zeros((0, 4), np.float32), size=(30, 45))
    assert OfficialRegionSpot(head).logits(nothing, TEXT).shape == (0, 7)


def test_other_clips_than_open_clips_are_refused(backbone: Backbone, head: RegionHead) -> None:
    class Own(Encoder):
        """Not of open_clip."""

    own = Backbone({**backbone.parts, "clip": Own()}, backbone.spec)
    with pytest.raises(UsageError, match="official"):
        OfficialRegionSpot(head).logits(RegionInputs(own, IMAGE, BOXES), TEXT)


@pytest.mark.parametrize(
    "arrays", [HeadInputs(query="box/position"), HeadInputs(memory=("clip/map", "clip/map_0"))]
)
def test_other_inputs_than_the_papers_are_refused(
    arrays: HeadInputs, backbone: Backbone, head: RegionHead
) -> None:
    with pytest.raises(UsageError, match="official"):
        OfficialRegionSpot(head, arrays).logits(RegionInputs(backbone, IMAGE, BOXES), TEXT)


def test_images_are_enlarged_by_pillow() -> None:
    image = resize_short_side(picture(16, 20))
    assert (image.shape, image.dtype) == ((800, 1000, 3), np.uint8)
    expected = Image.fromarray(picture(16, 20)).resize((1000, 800), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(image, np.asarray(expected))
