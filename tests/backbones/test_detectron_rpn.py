"""Detectron2's RPN against its layers written out from the published names, and against torchvision's."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork

from regionspot_cache.backbones import Backbone, BackboneSpec, HeadInputs, ProposerSpec, load_proposer
from regionspot_cache.backbones.detectron_rpn import PREFIXES, DetectronRpn, load_detectron_rpn
from regionspot_cache.backbones.proposer import DetectronProposer
from regionspot_cache.backbones.rpn import filtered_proposals
from regionspot_cache.errors import InputError, UsageError
from tests.backbones.published import BLOCKS, rpn_state, save
from tests.backbones.small import picture, small_sam

OWN = PREFIXES[1]
NO_CLIP = HeadInputs(memory=("sam/embedding",))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return rpn_state(*OWN)


@pytest.fixture(scope="module")
def network(state: dict[str, Tensor]) -> DetectronRpn:
    network = DetectronRpn(top_n=50)
    load_detectron_rpn(network, state, "file")
    return network.eval().requires_grad_(False)


def convolved(
    state: dict[str, Tensor], name: str, x: Tensor, stride: int = 1, *, relu: bool = True
) -> Tensor:
    """A convolution with a frozen norm, as Detectron2 has them."""
    weight = state[f"{name}.weight"]
    x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
    mean, var, scale, bias = (
        state[f"{name}.norm.{part}"].view(1, -1, 1, 1)
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    x = (x - mean) / (var + 1e-5).sqrt() * scale + bias
    return x.relu() if relu else x


def written_out(state: dict[str, Tensor], x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Maps p2 to p6, objectness and deltas."""
    body = "backbone.bottom_up"
    x = F.max_pool2d(convolved(state, f"{body}.stem.conv1", x, 2), 3, 2, 1)
    stages = []
    for stage, blocks in enumerate(BLOCKS, 2):
        for i in range(blocks):
            block = f"{body}.res{stage}.{i}"
            stride = 2 if stage > 2 and i == 0 else 1
            y = convolved(state, f"{block}.conv1", x, stride)  # the stride is here, not in the 3x3
            y = convolved(state, f"{block}.conv2", y)
            y = convolved(state, f"{block}.conv3", y, relu=False)
            x = convolved(state, f"{block}.shortcut", x, stride, relu=False) if i == 0 else x
            x = (x + y).relu()
        stages.append(x)

    def conv(name: str, x: Tensor) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    maps: list[Tensor] = []
    above = None
    for stage, x in reversed(list(enumerate(stages, 2))):
        lateral = conv(f"backbone.fpn_lateral{stage}", x)
        above = lateral if above is None else lateral + F.interpolate(above, scale_factor=2, mode="nearest")
        maps.insert(0, conv(f"backbone.fpn_output{stage}", above))
    maps.append(maps[-1][:, :, ::2, ::2])
    head = "proposal_generator.rpn_head"
    hidden = [conv(f"{head}.conv", x).relu() for x in maps]
    return (
        maps,
        [conv(f"{head}.objectness_logits", x) for x in hidden],
        [conv(f"{head}.anchor_deltas", x) for x in hidden],
    )


def test_every_layer_is_that_of_the_published_name(network: DetectronRpn, state: dict[str, Tensor]) -> None:
    batch = torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(1)) * 50
    with torch.no_grad():
        maps = list(network.backbone(batch).values())
        found = (maps, *network.head(maps))
        for ours, expected in zip(found, written_out(state, batch), strict=True):
            assert [x.shape for x in ours] == [x.shape for x in expected]
            for one, other in zip(ours, expected, strict=True):
                assert other.std() > 0.01
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_anchors_are_not_rounded_and_lie_by_the_true_strides(network: DetectronRpn) -> None:
    """160 pixels are three cells of 64, so the stride of p6 is no quotient of sizes."""
    grids = [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]
    found = network.anchors_of([torch.zeros(1, 256, *grid) for grid in grids])
    expected = []
    for (rows, columns), stride, size in zip(grids, (4, 8, 16, 32, 64), (32, 64, 128, 256, 512), strict=True):
        for y in range(rows):
            for x in range(columns):
                for ratio in (0.5, 1.0, 2.0):
                    w = math.sqrt(size**2 / ratio)
                    h = ratio * w
                    cx, cy = x * stride, y * stride
                    expected.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    torch.testing.assert_close(found, torch.tensor(expected))


def test_deltas_move_anchors_without_weights_and_with_a_limit(network: DetectronRpn) -> None:
    anchors = torch.tensor([[10.0, 20, 42, 84], [0, 0, 16, 16]])
    deltas = torch.tensor([[0.5, -0.25, 0.1, -0.2], [0, 0, 99, 1.0]])
    size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + size / 2 + deltas[:, :2] * size
    scaled = size * deltas[:, 2:].clamp(max=math.log(1000 / 16)).exp()
    expected = torch.cat([centre - scaled / 2, centre + scaled / 2], dim=1)
    torch.testing.assert_close(network.coder.decode(deltas, [anchors])[:, 0], expected)


def test_proposals_are_those_of_torchvision_where_the_two_agree(network: DetectronRpn) -> None:
    """At multiples of 64 its strides are right; its scores are the sigmoid of ours."""
    batch = torch.randn(1, 3, 128, 192, generator=torch.Generator().manual_seed(2)) * 50
    size = (120, 170)
    rpn = RegionProposalNetwork(
        network.anchors,
        network.head,
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=1,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 1000, "testing": 1000},
        post_nms_top_n={"training": 50, "testing": 50},
        nms_thresh=0.7,
    ).eval()
    rpn.min_size = 1e-30
    with torch.no_grad():
        boxes, logits = network(batch, size)
        features = list(network.backbone(batch).values())
        [(expected, scores)] = filtered_proposals(rpn, ImageList(batch, [size]), features)
    assert len(boxes) == 50
    assert (logits.diff() <= 0).all()
    torch.testing.assert_close(boxes, expected, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(logits.sigmoid(), scores)


def test_input_is_bgr_by_the_short_side_and_padded(network: DetectronRpn) -> None:
    image = picture(30, 41)
    batch, size = network.preprocess(image)
    assert size == (800, 1093)
    assert batch.shape == (1, 3, 800, 1120)
    resized = np.array(Image.fromarray(image).resize((1093, 800), Image.Resampling.BILINEAR), np.float32)
    expected = resized[:, :, ::-1] - np.array([103.53, 116.28, 123.675], np.float32)
    np.testing.assert_allclose(batch[0, :, :800, :1093].permute(1, 2, 0), expected, rtol=1e-5, atol=1e-4)
    assert not batch[0, :, :, 1093:].any()
    assert network.preprocess(picture(20, 60))[1] == (444, 1333)


@pytest.mark.parametrize("prefixes", PREFIXES)
def test_a_proposer_out_of_a_published_file(
    prefixes: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, with the heads of its training, or inside a pretrained RegionCLIP file beside its recogniser."""
    inside = prefixes == PREFIXES[0]
    beside = {"backbone.conv1.weight": torch.ones(2)} if inside else {"roi_heads.x.weight": torch.ones(2)}
    tensors = rpn_state(*prefixes, seed=3)
    file = save(tmp_path / "rpn.pth", {**tensors, **beside})
    spec = ProposerSpec(model="rpn_r50_fpn", weights=str(file), top_n=30, nms=0.9)
    sam = small_sam()
    backbone = Backbone({"sam": sam}, BackboneSpec(parts={"sam": sam.spec}, head=NO_CLIP, proposer=spec))
    proposer = load_proposer(backbone)
    assert isinstance(proposer, DetectronProposer)
    conv = tensors[f"{prefixes[0]}bottom_up.res4.5.conv2.weight"]
    assert torch.equal(proposer.rpn.backbone.body["layer3"][5].conv2.weight, conv)
    monkeypatch.setattr("regionspot_cache.backbones.detectron_rpn.SHORT_SIDE", 64)
    image = picture(120, 300)
    boxes, scores = proposer.propose(image)
    _, logits = proposer.propose_logits(image)
    assert boxes.dtype == scores.dtype == logits.dtype == np.float32
    assert boxes.shape == (len(scores), 4)
    assert 0 < len(scores) <= 30
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), rtol=1e-5)
    assert boxes.min() >= 0
    assert (boxes <= np.array([300, 120, 300, 120])).all()
    assert boxes[:, 2].max() > 200  # in the frame of the original
    identity = json.loads(json.dumps(proposer.identity()))
    assert (identity["top_n"], identity["nms"], identity["weights"]) == (30, 0.9, str(file))


def test_another_network_is_refused(state: dict[str, Tensor]) -> None:
    network = DetectronRpn()
    missing = {key: value for key, value in state.items() if key != "backbone.fpn_output3.bias"}
    with pytest.raises(InputError, match=r"1 tensors differ; backbone.fpn_output3.bias is missing"):
        load_detectron_rpn(network, missing, "file")
    more = {**state, "proposal_generator.rpn_head.conv2.bias": torch.ones(1)}
    with pytest.raises(InputError, match=r"proposal_generator.rpn_head.conv2.bias is unknown"):
        load_detectron_rpn(network, more, "file")
    with pytest.raises(InputError, match="does not fit"):
        load_detectron_rpn(network, {**state, "backbone.fpn_output3.bias": torch.ones(1)}, "file")
    c4 = {"backbone.stem.conv1.weight": torch.ones(1), "proposal_generator.rpn_head.conv.bias": torch.ones(1)}
    with pytest.raises(InputError, match=r"file holds no RPN on ResNet-50 with FPN"):
        load_detectron_rpn(network, c4, "file")


def test_there_are_no_weights_to_fetch() -> None:
    sam = small_sam()
    spec = BackboneSpec(parts={"sam": sam.spec}, head=NO_CLIP, proposer=ProposerSpec(model="rpn_r50_fpn"))
    with pytest.raises(UsageError, match=r"no official weights of rpn_r50_fpn(.|\n)*a path or random"):
        load_proposer(Backbone({"sam": sam}, spec))
