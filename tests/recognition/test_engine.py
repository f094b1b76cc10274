"""Many images through one engine: as one at a time, whatever the batch."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from regionspot_cache.backbones import Backbone
from regionspot_cache.backbones.presets import ProposerSpec
from regionspot_cache.backbones.proposer import SamRpnProposer
from regionspot_cache.backbones.rpn import SamRpn
from regionspot_cache.datasets.images import ImageFailure
from regionspot_cache.recognition import EmbeddedImage, RecognitionEngine, RegionInputs, RegionSpot
from regionspot_cache.recognition.embedding import ClipCrops
from regionspot_cache.training.head import RegionHead
from tests.backbones.small import picture, random_boxes, small_clip, small_sam

SIZES = ((40, 60), (60, 40), (50, 50), (30, 64), (40, 60))
COUNTS = (3, 0, 5, 3, 1)


@pytest.fixture(scope="module")
def backbone(small_backbone: Backbone) -> Backbone:
    return Backbone({"sam": small_sam(), "clip": small_clip()}, small_backbone.spec)


@dataclass
class Pictures:
    """Five images; some cached, some damaged."""

    backbone: Backbone
    cached: dict[int, dict[str, NDArray[np.float32]]] = field(default_factory=dict)
    damaged: tuple[int, ...] = ()
    proposer: SamRpnProposer | None = None

    def open(self, index: int) -> RegionInputs:
        boxes = (
            random_boxes(COUNTS[index], *SIZES[index]) if self.proposer is None else np.zeros((0, 4), "f4")
        )
        return RegionInputs(
            self.backbone,
            lambda: self._read(index),
            boxes,
            size=SIZES[index],
            cached=self.cached.get(index),
        )

    def regions_of(self, index: int, inputs: RegionInputs) -> tuple[RegionInputs, NDArray[np.float32] | None]:
        if self.proposer is None:
            return inputs, None
        boxes, scores = inputs.proposals(self.proposer)
        return inputs.on(boxes[:4]), scores[:4]

    def _read(self, index: int) -> NDArray[np.uint8]:
        if index in self.damaged:
            raise ImageFailure("undecodable", f"image {index}")
        return picture(*SIZES[index])


def ran(source: Pictures, head: RegionHead, batch_size: int) -> list[EmbeddedImage]:
    methods = [RegionSpot(head), ClipCrops(source.backbone.text, masked=True)]
    engine = RecognitionEngine(methods=methods, proposer=source.proposer, batch_size=batch_size)
    found = list(engine.run(source, range(len(SIZES))))
    assert [image.index for image in found] == list(range(len(SIZES)))
    return found


def require_equal(found: list[EmbeddedImage], expected: list[EmbeddedImage]) -> None:
    for image, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(image.inputs.boxes, wanted.inputs.boxes, atol=1e-3)
        for embeddings, others in zip(image.embeddings, wanted.embeddings, strict=True):
            assert len(embeddings) == len(image.inputs.boxes)
            torch.testing.assert_close(embeddings, others, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("batch_size", [2, 5, 8])
def test_a_batch_gives_what_each_image_gives_alone(
    batch_size: int, backbone: Backbone, head: RegionHead
) -> None:
    alone = ran(Pictures(backbone), head, 1)
    assert [len(image.embeddings[0]) for image in alone] == list(COUNTS)
    require_equal(ran(Pictures(backbone), head, batch_size), alone)


def test_the_networks_run_once_a_batch(
    backbone: Backbone, head: RegionHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, sam = [], backbone.parts["sam"]
    embed = sam.embed
    monkeypatch.setattr(sam, "embed", lambda batch: sizes.append(len(batch)) or embed(batch))
    ran(Pictures(backbone), head, 3)
    assert sizes == [3, 2]


def test_proposals_are_made_on_the_embeddings_of_the_batch(
    backbone: Backbone, head: RegionHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    sam = backbone.parts["sam"]
    torch.manual_seed(0)
    rpn = SamRpn(embed_dim=sam.network.prompt_encoder.embed_dim, image_size=sam.image_size)
    proposer = SamRpnProposer(rpn, ProposerSpec(), sam)
    alone = ran(Pictures(backbone, proposer=proposer), head, 1)
    sizes, embed = [], sam.embed
    monkeypatch.setattr(sam, "embed", lambda batch: sizes.append(len(batch)) or embed(batch))
    require_equal(ran(Pictures(backbone, proposer=proposer), head, 5), alone)
    assert sizes == [5]
    assert all(image.objectness is not None and len(image.objectness) for image in alone)


def test_what_is_cached_of_some_images_is_used(backbone: Backbone, head: RegionHead) -> None:
    paths = ("sam/transformer", "clip/map")
    turned = {path: -feature for path, feature in _features(backbone, 2).items()}
    assert set(turned) == set(paths)
    alone = ran(Pictures(backbone, {2: turned}), head, 1)
    found = ran(Pictures(backbone, {2: turned}), head, 5)
    require_equal(found, alone)
    assert [image.inputs.from_cache for image in found] == [set(), set(), set(paths), set(), set()]
    assert not torch.allclose(found[2].embeddings[0], ran(Pictures(backbone), head, 5)[2].embeddings[0])


def _features(backbone: Backbone, index: int) -> dict[str, NDArray[np.float32]]:
    inputs = Pictures(backbone).open(index)
    found = {"sam/transformer": inputs.query("sam/transformer"), "clip/map": inputs.memory(("clip/map",))}
    return {path: feature.numpy() for path, feature in found.items()}


@pytest.mark.parametrize("late", [False, True])
def test_a_damaged_image_costs_itself_alone(
    late: bool, backbone: Backbone, head: RegionHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where only the method finds out, after the networks have run."""
    cached = {}
    if late:
        monkeypatch.setattr(ClipCrops, "reads_pixels", False)
        cached = {2: _features(backbone, 2)}
    found = ran(Pictures(backbone, cached, damaged=(2,)), head, 5)
    assert [image.failure and image.failure.reason for image in found] == [
        None,
        None,
        "undecodable",
        None,
        None,
    ]
    expected = ran(Pictures(backbone), head, 5)
    require_equal([*found[:2], *found[3:]], [*expected[:2], *expected[3:]])
