"""Region proposals against torchvision's own RPN."""

import json

import numpy as np
import pytest
import torch
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from regionspot_cache.backbones.presets import ProposerSpec
from regionspot_cache.backbones.proposer import DetectorProposer, SamRpnProposer
from regionspot_cache.backbones.rpn import SamRpn
from tests.backbones.small import picture, small_sam

BOXES = [torch.tensor([[10.0, 20, 60, 70], [50, 50, 100, 90]]), torch.zeros(0, 4)]


def small_rpn(seed: int = 0, **kwargs: object) -> SamRpn:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SamRpn(embed_dim=64, image_size=128, width=32, anchor_sizes=(16, 32, 64), **kwargs)


def as_torchvision_sees(rpn: SamRpn, embeddings: torch.Tensor, size: tuple[int, int]):
    images = ImageList(torch.zeros(len(embeddings), 3, 128, 128), [size] * len(embeddings))
    return images, {"0": rpn.neck(embeddings)}


@pytest.mark.parametrize("upsample", [True, False])
def test_proposals_are_those_of_torchvision_with_their_scores(upsample: bool) -> None:
    rpn = small_rpn(upsample=upsample, top_n=50).eval()
    embeddings = torch.randn(2, 64, 8, 8)
    with torch.inference_mode():
        found = rpn(embeddings, [(96, 128)] * 2)
        expected, _ = rpn.rpn(*as_torchvision_sees(rpn, embeddings, (96, 128)))
    for (boxes, scores), reference in zip(found, expected, strict=True):
        torch.testing.assert_close(boxes, reference)
        assert 0 < len(boxes) <= 50
        assert (scores.diff() <= 0).all()
        assert boxes.min() >= 0
        assert (boxes.amax(0) <= torch.tensor([128, 96, 128, 96])).all()


def test_losses_are_those_of_torchvision_in_training() -> None:
    rpn = small_rpn()
    embeddings = torch.randn(2, 64, 8, 8)
    torch.manual_seed(3)
    found = rpn.losses(embeddings, BOXES)
    torch.manual_seed(3)
    targets = [{"boxes": boxes} for boxes in BOXES]
    _, expected = rpn.rpn(*as_torchvision_sees(rpn, embeddings, (128, 128)), targets)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def overlap(rpn: SamRpn, embedding: torch.Tensor) -> float:
    """Mean IoU of the best ten proposals with the true box next to each."""
    with torch.inference_mode():
        [(boxes, _)] = rpn.eval()(embedding, [(128, 128)])
    return box_iou(boxes[:10], BOXES[0]).amax(1).mean().item()


def test_training_moves_the_best_proposals_to_the_objects() -> None:
    rpn = small_rpn()
    embedding = torch.randn(1, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    before = overlap(rpn, embedding)
    optimiser = torch.optim.AdamW(rpn.train().parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(60):
        optimiser.zero_grad()
        sum(rpn.losses(embedding, BOXES[:1]).values()).backward()
        optimiser.step()
    assert overlap(rpn, embedding) > max(0.5, before + 0.2)


def test_proposals_come_in_pixels_of_the_original() -> None:
    sam = small_sam()
    proposer = SamRpnProposer(small_rpn(), ProposerSpec(model="packaged", weights="random:0"), sam)
    image = picture(300, 512)
    boxes, scores = proposer.propose(image)
    embedding = sam.embed(sam.preprocess(image)[None])
    [(framed, _)] = proposer.rpn(embedding, [(75, 128)])
    np.testing.assert_allclose(boxes, framed.numpy() * 4, rtol=1e-5)
    assert boxes.dtype == scores.dtype == np.float32
    [(again, _)] = proposer.propose_on(embedding, [(300, 512)])
    np.testing.assert_array_equal(boxes, again)
    identity = proposer.identity()
    assert json.loads(json.dumps(identity))["sam_weights_sha256"] == sam.weights_sha256


def test_a_detector_gives_scored_proposals_inside_the_image() -> None:
    detector = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, rpn_post_nms_top_n_test=40
    )
    proposer = DetectorProposer(detector, ProposerSpec())
    image = picture(120, 300)
    boxes, scores = proposer.propose(image)
    assert boxes.shape == (len(scores), 4)
    assert 0 < len(scores) <= 40
    assert (np.diff(scores) <= 0).all()
    assert boxes.min() >= 0
    assert (boxes <= np.array([300, 120, 300, 120]) + 1e-3).all()
    assert boxes[:, 2].max() > 200  # in the frame of the original, not of the resized image
    assert proposer.identity()["trained_on"] == "COCO, 80 classes"


def test_the_embedding_of_a_real_sam_trains_the_proposals() -> None:
    sam = small_sam()
    embedding = sam.embed(sam.preprocess(picture(64, 64))[None]).clone()
    losses = small_rpn().losses(embedding, [BOXES[0]])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


def test_images_in_one_pass_get_what_each_gets_alone() -> None:
    sam, sizes = small_sam(), [(300, 512), (90, 60), (128, 128)]
    proposer = SamRpnProposer(small_rpn(), ProposerSpec(model="packaged", weights="random:0"), sam)
    images = [picture(*size) for size in sizes]
    together = proposer.propose_on(sam.embed(torch.stack([sam.preprocess(i) for i in images])), sizes)
    for image, (boxes, scores) in zip(images, together, strict=True):
        expected, expected_scores = proposer.propose(image)
        np.testing.assert_allclose(boxes, expected, atol=1e-3)
        np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
