"""Detectron2's region proposal network on ResNet-50 with FPN, as RegionCLIP's published files hold it.

Layers are torchvision's. What differs from torchvision's own detector: the stride of a stage is in its first
1x1 convolution, pixels are BGR with the means of Caffe, anchors are not rounded and lie by the true stride of
each level, and the best boxes of all levels compete after the suppression within each. Written from the
configuration and the layer names that Detectron2 publishes (Apache-2.0).
"""

import math
from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.rpn import RPNHead, concat_box_prediction_layers
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d, batched_nms, clip_boxes_to_image

from regionspot_cache.backbones.pixels import by_pillow
from regionspot_cache.backbones.regionclip import by_short_side
from regionspot_cache.backbones.weights import load_state
from regionspot_cache.errors import InputError

SHORT_SIDE, LONG_SIDE, MULTIPLE = 800, 1333, 32
BGR_MEAN = (103.53, 116.28, 123.675)
SIZES, RATIOS = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0)
STRIDES = (4, 8, 16, 32, 64)
PRE_NMS = 1000  # boxes of a level that enter the suppression
LARGEST_SCALE = math.log(1000 / 16)  # of a box to its anchor
# The network inside a RegionCLIP file, and in a file of its own; each after the prefix of its backbone.
PREFIXES = (("offline_backbone.", "offline_proposal_generator."), ("backbone.", "proposal_generator."))


class _Anchors(AnchorGenerator):
    """torchvision's without rounding."""

    def generate_anchors(
        self,
        scales: list[int],
        aspect_ratios: list[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (torchvision's signature)
    ) -> Tensor:
        sides, ratios = torch.tensor(scales, dtype=dtype), torch.tensor(aspect_ratios, dtype=dtype).sqrt()
        halves = torch.stack([sides / ratios, sides * ratios], dim=1) / 2
        return torch.cat([-halves, halves], dim=1).to(device)


class DetectronRpn(nn.Module):
    """Class-agnostic proposals of one image.

    Args:
        nms: IoU above which the lower-scored of two proposals of a level is dropped.
        top_n: proposals kept after it.
    """

    def __init__(self, *, nms: float = 0.7, top_n: int = 1000) -> None:
        super().__init__()
        self.nms, self.top_n = nms, top_n
        resnet = ResNet(Bottleneck, [3, 4, 6, 3], norm_layer=FrozenBatchNorm2d)
        for stage in (resnet.layer2, resnet.layer3, resnet.layer4):
            first = cast(Bottleneck, stage[0])
            first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)
        stages = {f"layer{i + 1}": str(i) for i in range(4)}
        self.backbone = BackboneWithFPN(resnet, stages, [256, 512, 1024, 2048], 256)
        self.head = RPNHead(256, len(RATIOS))
        self.anchors = _Anchors(tuple((size,) for size in SIZES), (RATIOS,) * len(SIZES))
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0), LARGEST_SCALE)

    def preprocess(self, image: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
        """The network's input, and the size of the image within it.

        Args:
            image: uint8 [H,W,3] RGB.

        Returns:
            float32 [1,3,h,w] on the CPU, BGR, zeros to the right and below up to multiples of 32; and the
            (height, width) of the resized image.
        """
        height, width = by_short_side((image.shape[0], image.shape[1]), SHORT_SIDE, LONG_SIDE)
        pixels = by_pillow(image, (height, width), Image.Resampling.BILINEAR).flip(0).float()
        pixels = pixels - torch.tensor(BGR_MEAN)[:, None, None]
        padding = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        return nn.functional.pad(pixels, padding)[None], (height, width)

    def forward(self, batch: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Proposals of an input [1,3,h,w] of `preprocess`, best first.

        Returns:
            boxes [n,4] xyxy in pixels of the input, within `size`, and raw objectness logits [n].
        """
        features = list(self.backbone(batch).values())
        objectness, deltas = self.head(features)
        counts = [level.numel() for level in objectness]
        logits, flat_deltas = concat_box_prediction_layers(objectness, deltas)
        boxes = self.coder.decode(flat_deltas, [self.anchors_of(features)])[:, 0]
        return self._best(boxes, logits[:, 0], counts, size)

    def anchors_of(self, features: list[Tensor]) -> Tensor:
        """Anchors [A,4] xyxy of maps [1,C,h,w] of all levels, in the order of the predictions."""
        self.anchors.set_cell_anchors(torch.float32, features[0].device)
        strides = [[torch.tensor(stride, device=features[0].device)] * 2 for stride in STRIDES]
        return torch.cat(self.anchors.grid_anchors([list(f.shape[-2:]) for f in features], strides))

    def _best(
        self, boxes: Tensor, logits: Tensor, counts: list[int], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        starts = np.cumsum([0, *counts[:-1]]).tolist()
        parts = [
            level.topk(min(PRE_NMS, len(level))).indices + start
            for level, start in zip(logits.split(counts), starts, strict=True)
        ]
        rows = torch.cat(parts)
        levels = torch.cat([rows.new_full((len(part),), i) for i, part in enumerate(parts)])
        boxes, logits = clip_boxes_to_image(boxes[rows], size), logits[rows]
        solid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1) & boxes.isfinite().all(dim=1) & logits.isfinite()
        boxes, logits, levels = boxes[solid], logits[solid], levels[solid]
        kept = batched_nms(boxes, logits, levels, self.nms)[: self.top_n]
        return boxes[kept], logits[kept]


def load_detectron_rpn(network: DetectronRpn, state: Mapping[str, Tensor], source: str) -> None:
    """Loads the RPN of a published file; whatever else the file holds is left alone.

    Args:
        state: all tensors of a pretrained RegionCLIP file (`offline_backbone.*`,
            `offline_proposal_generator.rpn_head.*`), or of an RPN's own (`backbone.bottom_up.*`, ...).
        source: names the file in the error.

    Raises:
        InputError: none in it, or one of another network.
    """
    names = {_published_name(key): key for key in network.state_dict()}
    prefixes = next((p for p in PREFIXES if any(key.startswith(p[0]) for key in state)), PREFIXES[1])
    heads = (prefixes[0], f"{prefixes[1]}rpn_head.")
    found = {
        key.removeprefix(prefixes[0]).removeprefix(prefixes[1]): value
        for key, value in state.items()
        if key.startswith(heads) and not key.endswith("num_batches_tracked")
    }
    differing = sorted(set(names) ^ set(found))
    if differing:
        what = "is missing" if differing[0] in names else "is unknown"
        prefix = prefixes[differing[0].startswith("rpn_head.")]
        raise InputError(
            f"{source} holds no RPN on ResNet-50 with FPN: {len(differing)} tensors differ; "
            f"{prefix}{differing[0]} {what}.",
            f"{prefixes[0]}bottom_up.*, {prefixes[0]}fpn_* and {prefixes[1]}rpn_head.*",
            "A pretrained RegionCLIP file, or rpn_lvis_866.pth; not an RPN of C4 or of CLIP's own backbone.",
        )
    load_state(network, {names[key]: value for key, value in found.items()}, source)


def _published_name(key: str) -> str:
    """Detectron2's name of a tensor of `DetectronRpn`, behind the prefix of its group."""
    module, _, rest = key.partition(".")
    *path, value = rest.split(".")
    if module == "head":
        layer = {"conv": "conv", "cls_logits": "objectness_logits", "bbox_pred": "anchor_deltas"}[path[0]]
        return f"rpn_head.{layer}.{value}"
    if path[0] == "fpn":
        kind = "lateral" if path[1] == "inner_blocks" else "output"
        return f"fpn_{kind}{int(path[2]) + 2}.{value}"
    _, *block, layer = path  # body, layer2, 0, conv1 or body, layer2, 0, downsample, 1
    if "downsample" in block:
        block, layer = block[:2], "shortcut" if layer == "0" else "shortcut.norm"
    else:
        layer = f"conv{layer[-1]}{'.norm' * layer.startswith('bn')}"
    stage = f"res{int(block[0][-1]) + 1}.{block[1]}" if block else "stem"
    return f"bottom_up.{stage}.{layer}.{value}"
