"""TIPSv2 (Cao et al., 2026) of the transformers library: patches and texts share a space as they are."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from regionspot_cache.backbones.arithmetic import autocast, choose
from regionspot_cache.backbones.clip import VALUES
from regionspot_cache.backbones.clip_build import portable_name
from regionspot_cache.backbones.clip_text import TEXT_BATCH
from regionspot_cache.backbones.encoder import Array
from regionspot_cache.backbones.hf_sam import architecture
from regionspot_cache.backbones.pixels import Statistics, by_torchvision, normalised, statistics
from regionspot_cache.backbones.presets import Tipsv2Spec
from regionspot_cache.backbones.weights import state_sha256
from regionspot_cache.errors import UsageError

Tokenizer = Callable[[list[str]], dict[str, Tensor]]
"""Texts to `input_ids` and `attention_mask`, int64 [T, context length]."""


class Tipsv2:
    """A frozen TIPSv2; see `Encoder` and `TextEncoder` for what its methods take and give.

    All results are inference tensors on `device`; clone one before training on it.

    Args:
        network: `Tipsv2Model` of the library, with its weights.
        tokenizer: the one that belongs to it.
        spec: what it is called, its size and precision.
        device: where it runs.

    Raises:
        UsageError: a size that is no whole number of patches.
    """

    mean = (0.0, 0.0, 0.0)  # its input is RGB in 0..1 as it is

    def __init__(
        self, network: Any, tokenizer: Tokenizer, spec: Tipsv2Spec, device: torch.device | str = "cpu"
    ) -> None:
        self.tokenizer, self.spec = tokenizer, spec
        self.name = portable_name(spec.model)
        self.device = torch.device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.precision = choose(spec.precision, self.device).arithmetic
        config = network.config.vision_config
        self.image_size = int(spec.image_size or config.image_size)
        self.prefix_tokens = 1 + int(config.num_register_tokens)
        side, rest = divmod(self.image_size, config.patch_size)
        if rest or side < 1:
            raise UsageError(
                f"tipsv2.image_size = {self.image_size}.",
                f"A multiple of the patch size, {config.patch_size}.",
            )
        self.grid = (side, side)

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """`map`: class and register token, then the grid, before the final norm; `values`: in text space."""
        patches, width = self.grid[0] * self.grid[1], int(self.network.config.vision_config.hidden_size)
        tokens = Array(shape=(self.prefix_tokens + patches, width), grid=self.grid)
        values = {VALUES: Array(shape=(patches, width), grid=self.grid)} if self.spec.values else {}
        return {"map": tokens, **values}

    @property
    def logit_scale(self) -> float:
        """Factor of cosine similarities: one over the temperature."""
        return 1 / float(self.network.temperature)

    def fingerprint(self) -> dict[str, Any]:
        """All that decides the values of the arrays, json-able; the same on every machine."""
        return {
            "library": "transformers",
            "model": self.name,
            "architecture": architecture(self.network.config.vision_config),
            "weights_sha256": state_sha256(self.network.vision_model.state_dict()),
            "image_size": self.image_size,
            "preprocess": "squash, bilinear antialiased (torchvision)",
            "tokens": f"{self.prefix_tokens} prefix first, before the final norm",
            "precision": self.precision,
        }

    def text_fingerprint(self) -> dict[str, Any]:
        """All that decides the values of `encode_text`, json-able."""
        return {
            "library": "transformers",
            "model": self.name,
            "architecture": architecture(self.network.config.text_config),
            "weights_sha256": state_sha256(self.network.text_model.state_dict()),
            "tokenizer": f"transformers {self.name}",
        }

    def preprocess(self, image: np.ndarray) -> Tensor:
        """Squashes the whole image to a square, as the library's own processor does.

        Args:
            image: uint8 [H,W,3] RGB.

        Returns:
            uint8 [3,R,R] on the CPU.
        """
        return by_torchvision(image, (self.image_size, self.image_size), Image.Resampling.BILINEAR)

    @cached_property
    def _pixel_statistics(self) -> Statistics:
        return statistics(self.mean, (1, 1, 1), self.device)

    def normalise(self, batch: Tensor) -> Tensor:
        """Inputs of `preprocess` [B,3,R,R] as the network takes them, float32 in 0..1 on the device."""
        return normalised(batch, self._pixel_statistics, white=1)

    @torch.inference_mode()
    def encode(self, batch: Tensor, boxes: Any = None, sizes: Any = None) -> dict[str, Tensor]:
        """The arrays, float32 [B,N,C] by name, of inputs [B,3,R,R]; boxes do not matter."""
        with autocast(self.precision, self.device):
            return self.image_network(self.normalise(batch))

    def image_network(self, batch: Tensor) -> dict[str, Tensor]:
        """As `encode`, of normalised inputs."""
        before_last = self._before_last(batch)
        found = {"map": self._blocks[-1](before_last)}
        if self.spec.values:
            found[VALUES] = self._values(before_last[:, self.prefix_tokens :])
        return {name: tokens.float() for name, tokens in found.items()}

    @torch.inference_mode()
    def encode_image(self, batch: Tensor) -> Tensor:
        """The class token [B,E] that was trained on the captions of web pages, float32, not normalised."""
        with autocast(self.precision, self.device):
            last = self._blocks[-1](self._before_last(self.normalise(batch)))
            return self.network.vision_model.layernorm(last[:, 0]).float()

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [T,E], float32, not normalised; long texts are cut to the context."""
        found = [torch.zeros(0, self.network.config.text_config.hidden_size, device=self.device)]
        for start in range(0, len(texts), TEXT_BATCH):
            tokens = self.tokenizer(list(texts[start : start + TEXT_BATCH]))
            tokens = {name: value.to(self.device) for name, value in tokens.items()}
            found.append(self.network.text_model(**tokens).pooler_output)
        return torch.cat(found)

    @property
    def _blocks(self) -> Any:
        return self.network.vision_model.encoder.layer

    def _before_last(self, batch: Tensor) -> Tensor:
        """Tokens [B,P+N,C] that the last block takes, of normalised inputs."""
        x = self.network.vision_model.embeddings(batch)
        for block in self._blocks[:-1]:
            x = block(x)
        return x

    def _values(self, x: Tensor) -> Tensor:
        """The last block with its attention's value path alone, and the final norm, of patches [B,N,C].

        It is how TIPSv2's authors segment by names; see `clip_values` for the same of a CLIP.
        """
        block = self._blocks[-1]
        x = x + block.layer_scale1(block.attention.o_proj(block.attention.v_proj(block.norm1(x))))
        x = x + block.layer_scale2(block.mlp(block.norm2(x)))
        return self.network.vision_model.layernorm(x)
