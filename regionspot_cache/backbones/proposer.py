"""Region proposals of images, from the small RPN on SAM embeddings, torchvision, or Detectron2."""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import RegionProposalNetwork

from regionspot_cache.backbones.detectron_rpn import DetectronRpn
from regionspot_cache.backbones.encoder import Size
from regionspot_cache.backbones.presets import ProposerSpec
from regionspot_cache.backbones.rpn import SamRpn, filtered_proposals
from regionspot_cache.backbones.sam import SamBackbone
from regionspot_cache.backbones.sam_base import cells_of
from regionspot_cache.backbones.weights import state_sha256

Proposals = tuple[np.ndarray, np.ndarray]
"""Boxes float32 [n,4] xyxy in pixels of the original image, and scores float32 [n] (sigmoid), best first."""


class RegionProposer(Protocol):
    """Class-agnostic boxes of one image."""

    def propose(self, image: np.ndarray) -> Proposals:
        """Proposals of `image`, uint8 [H,W,3] RGB."""

    def identity(self) -> dict[str, Any]:
        """What the proposals come from, json-able; printed beside every number made with them."""


class SamRpnProposer:
    """Proposals of the small RPN that reads SAM embeddings.

    Args:
        sam: the SAM whose embeddings it was trained on; embeds images in `propose`.
    """

    def __init__(self, rpn: SamRpn, spec: ProposerSpec, sam: SamBackbone) -> None:
        self.rpn = rpn.to(sam.device).eval().requires_grad_(False)
        self.spec = spec
        self.sam = sam

    def propose(self, image: np.ndarray) -> Proposals:
        embedding = cells_of(self.sam.embed(self.sam.preprocess(image)[None]))
        [found] = self.propose_on(embedding, [(image.shape[0], image.shape[1])])
        return found

    @torch.inference_mode()
    def propose_on(self, embeddings: Tensor, sizes: Sequence[Size]) -> list[Proposals]:
        """Proposals of B images in one pass, of their SAM embeddings [B,D,h,w] and (height, width)."""
        framed = [self.sam.resized_size(size) for size in sizes]
        out = []
        for (boxes, scores), inside, size in zip(self.rpn(embeddings, framed), framed, sizes, strict=True):
            scale = np.array([size[1] / inside[1], size[0] / inside[0]] * 2, dtype=np.float32)
            out.append((boxes.cpu().numpy() * scale, scores.cpu().numpy()))
        return out

    def identity(self) -> dict[str, Any]:
        return _identity("small RPN on SAM embeddings", self.spec, self.rpn) | {
            "sam_weights_sha256": self.sam.weights_sha256
        }


class DetectorProposer:
    """Proposals of the RPN inside a torchvision detector (image resized to 800/1333 by its own transform)."""

    def __init__(self, detector: FasterRCNN, spec: ProposerSpec, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.detector = detector.to(self.device).eval().requires_grad_(False)
        self.spec = spec

    @torch.inference_mode()
    def propose(self, image: np.ndarray) -> Proposals:
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).to(self.device).float() / 255
        images, _ = self.detector.transform([pixels])
        features = list(self.detector.backbone(images.tensors).values())
        rpn = cast(RegionProposalNetwork, self.detector.rpn)
        [(boxes, scores)] = filtered_proposals(rpn, images, features)
        height, width = images.image_sizes[0]
        scale = np.array([image.shape[1] / width, image.shape[0] / height] * 2, dtype=np.float32)
        return boxes.cpu().numpy() * scale, scores.cpu().numpy()

    def identity(self) -> dict[str, Any]:
        trained = {"trained_on": "COCO, 80 classes"} if self.spec.weights == "official" else {}
        return _identity(f"torchvision {self.spec.model} RPN", self.spec, self.detector) | trained


class DetectronProposer:
    """Proposals of Detectron2's RPN on ResNet-50 with FPN.

    Args:
        rpn: the network with its weights.
        spec: names it.
        device: where it runs.
    """

    def __init__(self, rpn: DetectronRpn, spec: ProposerSpec, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.rpn = rpn.to(self.device).eval().requires_grad_(False)
        self.spec = spec

    def propose(self, image: np.ndarray) -> Proposals:
        boxes, logits = self.propose_logits(image)
        return boxes, torch.from_numpy(logits).sigmoid().numpy()

    @torch.inference_mode()
    def propose_logits(self, image: np.ndarray) -> Proposals:
        """As `propose`, with the raw objectness logits in place of the scores."""
        batch, size = self.rpn.preprocess(image)
        boxes, logits = self.rpn(batch.to(self.device), size)
        sides = np.array([image.shape[1], image.shape[0]] * 2, dtype=np.float32)
        scale = sides / np.array([size[1], size[0]] * 2, dtype=np.float32)
        return np.minimum(boxes.cpu().numpy() * scale, sides), logits.cpu().numpy()

    def identity(self) -> dict[str, Any]:
        return _identity("Detectron2 RPN, ResNet-50 FPN", self.spec, self.rpn)


def _identity(name: str, spec: ProposerSpec, network: torch.nn.Module) -> dict[str, Any]:
    return {
        "proposals": name,
        "weights": spec.weights,
        "weights_sha256": state_sha256(network.state_dict()),
        "top_n": spec.top_n,
        "nms": spec.nms,
    }
