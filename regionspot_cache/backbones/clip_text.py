"""The text side of a CLIP of open_clip, which its image sides share."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import open_clip
import torch
from open_clip.transformer import text_global_pool
from torch import Tensor

from regionspot_cache.backbones.clip_build import ClipParts, portable_name
from regionspot_cache.backbones.pixels import Statistics, normalised, statistics
from regionspot_cache.backbones.weights import state_sha256

TEXT_BATCH = 256


class ClipText:
    """A frozen CLIP that embeds texts; always in float32.

    Args:
        parts: model, tokenizer and preprocessing of `build_clip`.
        model: what the spec calls it.
        device: where it runs.
    """

    def __init__(self, parts: ClipParts, model: str, device: torch.device | str = "cpu") -> None:
        self.parts = parts
        self.name = portable_name(model)
        self.device = torch.device(device)
        self.model = parts.model.to(self.device).eval().requires_grad_(False)

    @property
    def mean(self) -> tuple[float, ...]:
        """RGB in 0..1 that the network takes as zero."""
        return self.parts.mean

    @cached_property
    def _pixel_statistics(self) -> Statistics:
        return statistics(self.mean, self.parts.std, self.device)

    def normalise(self, batch: Tensor) -> Tensor:
        """Inputs of `preprocess` [B,3,h,w] as the network takes them, float32 on the device.

        Pixels are uint8; floats were normalised before.
        """
        return normalised(batch, self._pixel_statistics, white=1)

    @cached_property
    def embed_dim(self) -> int:
        """Width E of image and text embeddings."""
        return self.encode_text([""]).shape[1]

    @cached_property
    def _text_sha256(self) -> str:
        state = self.model.state_dict()
        return state_sha256({k: v for k, v in state.items() if not k.startswith(("visual.", "logit_"))})

    def text_fingerprint(self) -> dict[str, Any]:
        """All that decides the values of `encode_text`, json-able."""
        return {
            "library": "open_clip",
            "model": self.name,
            "weights_sha256": self._text_sha256,
            "quick_gelu": self.parts.quick_gelu,
            "tokenizer": self.parts.tokenizer_id,
        }

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """open_clip's text embeddings [T,E] in float32, not normalised; long texts are cut to the context."""
        ids = self.parts.tokenizer(list(texts))
        lengths = ids.argmax(dim=1) + 1  # the end token has the greatest id
        order = lengths.argsort()  # texts of similar length together
        found = [
            _embedded(self.model, ids[chosen].to(self.device), int(lengths[chosen[-1]]))
            for chosen in order.split(TEXT_BATCH)
        ]
        return torch.cat(found).float()[order.argsort().to(self.device)]


def _embedded(model: Any, ids: Tensor, length: int) -> Tensor:
    """`model.encode_text` of token ids [B,L] whose ends lie among the first `length`: [B,E].

    In a causal text tower that pools at the end token nothing after it has any influence, and most texts are
    short: "a photo of a cat." has 8 of 77 tokens. Other towers get all of them.
    """
    if not _ends_at_the_end_token(model):
        return model.encode_text(ids)
    ids = ids[:, :length]
    tokens = model.token_embedding(ids) + model.positional_embedding[:length]
    tokens = model.ln_final(model.transformer(tokens, attn_mask=model.attn_mask[:length, :length]))
    pooled = text_global_pool(tokens, ids, "argmax")
    projection = model.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, torch.nn.Linear) else pooled @ projection


def _ends_at_the_end_token(model: Any) -> bool:
    return (
        isinstance(model, open_clip.CLIP) and model.text_pool_type == "argmax" and model.attn_mask is not None
    )
