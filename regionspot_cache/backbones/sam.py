"""The SAM side with networks of segment_anything's classes: boxes to position-aware tokens and masks."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import Sam, TwoWayTransformer
from torch import Tensor

from regionspot_cache.backbones.pixels import Statistics, by_pillow
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

    @property
    def _pixel_statistics(self) -> Statistics:
        return self.network.pixel_mean, self.network.pixel_std

    def _resized(self, image: np.ndarray) -> Tensor:
        return by_pillow(image, self.resized_size(image.shape[:2]), Image.Resampling.BILINEAR)

    def image_network(self, batch: Tensor) -> tuple[Tensor]:
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
