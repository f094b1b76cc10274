"""RegionCLIP's recogniser (Zhong et al., 2022): boxes cut out of the feature map of a CLIP ResNet.

The whole image passes the stem and the first three stages; RoIAlign cuts every box out of that map, at the
size that the last stage and the attention pool take for a whole image, so that no position is interpolated.
open_clip's `ModifiedResNet` and torchvision's `roi_align` are the whole of it.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from PIL import Image
from torch import Tensor
from torchvision.ops import roi_align

from regionspot_cache.backbones.arithmetic import autocast, choose
from regionspot_cache.backbones.clip_build import ClipParts, portable_name
from regionspot_cache.backbones.clip_text import ClipText
from regionspot_cache.backbones.encoder import Array, Size
from regionspot_cache.backbones.pixels import by_pillow
from regionspot_cache.backbones.presets import RegionClipSpec
from regionspot_cache.backbones.weights import state_sha256
from regionspot_cache.errors import UsageError

STRIDE = 16  # of the map that boxes are cut out of
BOXES_AT_ONCE = 64


class RegionClip(ClipText):
    """A CLIP ResNet that embeds boxes.

    Args:
        parts: model, tokenizer and preprocessing of `build_clip`.
        spec: how images are resized, and the precision.
        device: where it runs.

    Raises:
        UsageError: the image tower is no ResNet with an attention pool.
    """

    def __init__(self, parts: ClipParts, spec: RegionClipSpec, device: torch.device | str = "cpu") -> None:
        super().__init__(parts, spec.model, device)
        if not isinstance(parts.model.visual, ModifiedResNet):
            raise UsageError(
                f"network: regionclip with {spec.model}, whose image tower is no ResNet of CLIP.",
                "RN50-quickgelu, RN50x4-quickgelu or packaged.",
            )
        self.spec = spec
        self.visual: ModifiedResNet = self.model.visual
        self.precision = choose(spec.precision, self.device).arithmetic

    @property
    def roi_size(self) -> int:
        """Side of a cut-out, in cells of the map: the last stage halves it to the grid of the pool."""
        return 2 * (self.visual.image_size // 32)

    @property
    def logit_scale(self) -> float:
        """RegionCLIP's fixed temperature of 0.01; the parameter of the model is not used."""
        return 100.0

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """`region`: the embedding of every box, not normalised."""
        return {"region": Array(shape=(self.visual.output_dim,), per_box=True)}

    def fingerprint(self) -> dict[str, Any]:
        """All that decides the values, json-able; the same on every machine."""
        return {
            "library": "open_clip, torchvision roi_align",
            "model": portable_name(self.spec.model),
            "weights_sha256": state_sha256(
                {k: v for k, v in self.visual.state_dict().items() if not k.endswith("num_batches_tracked")}
            ),
            "preprocess": f"short side {self.spec.short_side}, at most {self.spec.long_side}, bilinear",
            "mean": list(self.parts.mean),
            "std": list(self.parts.std),
            "roi": f"{self.roi_size} x {self.roi_size}, stride {STRIDE}, aligned, adaptive sampling",
            "precision": self.precision,
        }

    def preprocess(self, image: np.ndarray) -> Tensor:
        """The image by its short side, without padding.

        Args:
            image: uint8 [H,W,3] RGB.

        Returns:
            uint8 [3,h,w] on the CPU; h and w differ from image to image.
        """
        size = image.shape[0], image.shape[1]
        resized = by_short_side(size, self.spec.short_side, self.spec.long_side)
        return by_pillow(image, resized, Image.Resampling.BILINEAR)

    @torch.inference_mode()
    def encode(
        self, batch: Tensor, boxes: Sequence[np.ndarray], sizes: Sequence[Size]
    ) -> dict[str, list[Tensor]]:
        """`region`: for each of B images float32 [n,E], of inputs [B,3,h,w]; boxes as of `Encoder.encode`."""
        with autocast(self.precision, self.device):
            maps = self.feature_map(self.normalise(batch))
        height, width = batch.shape[-2:]
        found = []
        for image_map, own, size in zip(maps, boxes, sizes, strict=True):
            scale = torch.tensor([width / size[1], height / size[0]] * 2)
            corners = torch.from_numpy(np.asarray(own, np.float32).reshape(-1, 4)) * scale
            found.append(self.embed_boxes(image_map[None], corners.to(self.device)))
        return {"region": found}

    def feature_map(self, batch: Tensor) -> Tensor:
        """The output [B,C,h/16,w/16] of the third stage."""
        visual = self.visual
        return visual.layer3(visual.layer2(visual.layer1(visual.stem(batch))))

    def embed_boxes(self, image_map: Tensor, corners: Tensor) -> Tensor:
        """Embeddings float32 [n,E], not normalised, of boxes [n,4] xyxy in pixels of the network's input.

        Args:
            image_map: [1,C,h,w] of `feature_map`.
        """
        found = [corners.new_zeros(0, self.visual.output_dim)]
        for some in corners.split(BOXES_AT_ONCE):
            cut = roi_align(
                image_map.float(),
                [some],
                self.roi_size,
                spatial_scale=1 / STRIDE,
                sampling_ratio=0,
                aligned=True,
            )
            with autocast(self.precision, self.device):
                found.append(pooled_query(self.visual.attnpool, self.visual.layer4(cut)).float())
        return torch.cat(found)

    @torch.inference_mode()
    def encode_image(self, batch: Tensor) -> Tensor:
        """Embeddings float32 [B,E], not normalised, of whole inputs [B,3,h,w] as one box each."""
        height, width = batch.shape[-2:]
        frame = np.array([[0, 0, width, height]], np.float32)
        found = self.encode(batch, [frame] * len(batch), [(height, width)] * len(batch))
        return torch.cat(found["region"])


def by_short_side(size: Size, short_side: int, long_side: int) -> Size:
    """Detectron2's rule: the short side, unless the long one gets too long; rounded half up."""
    scale = min(short_side / min(size), long_side / max(size))
    height, width = (max(32, int(side * scale + 0.5)) for side in size)
    return height, width


def pooled_query(pool: AttentionPool2d, x: Tensor) -> Tensor:
    """CLIP's attention pool [n,E] of maps [n,C,s,s]; only the row of its mean token, which alone is used."""
    tokens = x.flatten(2).transpose(1, 2)  # [n,s*s,C]
    tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) + pool.positional_embedding
    query, key, value = (
        linear(part).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
        for linear, part in ((pool.q_proj, tokens[:, :1]), (pool.k_proj, tokens), (pool.v_proj, tokens))
    )
    mixed = F.scaled_dot_product_attention(query, key, value)  # [n,heads,1,C/heads]
    return pool.c_proj(mixed.transpose(1, 2).flatten(1))
