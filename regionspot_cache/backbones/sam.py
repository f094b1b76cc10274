"""The SAM side with networks of segment_anything's classes: boxes to position-aware tokens and masks."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import Sam, TwoWayTransformer
from torch import Tensor

from regionspot_cache.backbones.presets import SamSpec
from regionspot_cache.backbones.sam_base import Embedding, FrozenSam, cells_of
from regionspot_cache.backbones.sam_decode import TokenDecoder


class SamBackbone(FrozenSam):
    """A frozen SAM (Kirillov et al., 2023), or one with another image encoder (MobileSAM).

    Args:
        config: what it was built from, see `sam_build`.
    """

    def __init__(
        self, network: Sam, config: Mapping[str, Any], spec: SamSpec, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(network, spec, device)
        self.config = config

    @property
    def image_size(self) -> int:
        return self.network.image_encoder.img_size

    def fingerprint(self) -> dict[str, Any]:
        return {
            "library": "segment_anything",
            "model": self.spec.model,
            "architecture": dict(self.config),
            "weights_sha256": self.weights_sha256,
            "preprocess": f"longest side {self.image_size}, PIL bilinear antialiased, mean/std, zero pad",
            "token": "mask token 0 of a box prompt, single-mask output",
            "precision": self.precision,
        }

    def preprocess(self, image: np.ndarray) -> Tensor:
        """The image, its longest side resized by PIL, in a square: uint8 [4,S,S] of RGB and, 1 or 0, which
        pixels are the image's."""
        height, width = self.resized_size(image.shape[:2])
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        out = torch.zeros(4, self.image_size, self.image_size, dtype=torch.uint8)
        out[:3, :height, :width] = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
        out[3, :height, :width] = 1
        return out

    def normalise(self, batch: Tensor) -> Tensor:
        """What SamPredictor feeds the network: normalised, then padded with zeros; floats were so before."""
        batch = batch.to(self.device, non_blocking=True)
        if batch.dtype != torch.uint8:
            return batch
        mean, std = self.network.pixel_mean, self.network.pixel_std
        out = torch.empty(len(batch), 3, *batch.shape[2:], device=self.device)
        for image, normalised in zip(batch, out, strict=True):  # one at a time stays in a processor's cache
            normalised.copy_(image[:3]).sub_(mean).div_(std).mul_(image[3].float())
        return out

    def _levels(self, batch: Tensor) -> tuple[Tensor]:
        return (self.network.image_encoder(batch),)

    def _embed_boxes(self, framed: Tensor) -> Tensor:
        sparse, _ = self.network.prompt_encoder(points=None, boxes=framed, masks=None)
        return sparse

    def _decode_masks(
        self, embedding: Embedding, prompts: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        low, quality = self.network.mask_decoder(
            image_embeddings=cells_of(embedding),
            image_pe=self._position,
            sparse_prompt_embeddings=prompts,
            dense_prompt_embeddings=self._dense_prompt.expand(len(prompts), -1, -1, -1),
            multimask_output=False,
        )
        logits = self.network.postprocess_masks(low, self.resized_size(size), size)
        return logits[:, 0] > self.network.mask_threshold, quality[:, 0]

    @cached_property
    def _decoder(self) -> TokenDecoder:
        decoder = self.network.mask_decoder
        transformer: Any = decoder.transformer
        assert isinstance(transformer, TwoWayTransformer)
        output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        return TokenDecoder(transformer, output, mask_token=1)

    @cached_property
    def _position(self) -> Tensor:
        return self.network.prompt_encoder.get_dense_pe()  # [1,D,h,w]
