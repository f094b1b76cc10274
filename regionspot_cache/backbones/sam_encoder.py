"""What the rest of the project asks of the SAM side; every family gives it, and so may a network of yours."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from regionspot_cache.backbones.presets import Position, SamSpec

Embedding = Any
"""What `embed` gives and `tokens` and `masks` take back unseen: a tensor, or features of several layers."""


class SamEncoder(Protocol):
    """A frozen network that turns boxes into position-aware tokens and masks.

    Shapes: B images, S the input's side, n boxes of an image, d the width of a token position.
    """

    @property
    def spec(self) -> SamSpec:
        """What it was loaded from."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the network runs and where its results are."""
        ...

    @property
    def image_size(self) -> int:
        """S, in pixels."""
        ...

    @property
    def token_dims(self) -> Mapping[str, int]:
        """Width of the token at each position of the spec."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """All that decides the values of the tokens, json-able; the same on every machine.

        "positions" lists the token positions of the spec.
        """
        ...

    def preprocess(self, image: np.ndarray) -> Tensor:
        """uint8 [H,W,3] RGB as the network's input, float32 [3,S,S] on the CPU; thread-safe."""
        ...

    def embed(self, batch: Tensor) -> Embedding:
        """Embeddings of inputs [B,3,S,S]."""
        ...

    def tokens(
        self,
        embeddings: Embedding,
        boxes: Sequence[np.ndarray],
        sizes: Sequence[tuple[int, int]],
        positions: Sequence[Position] | None = None,
    ) -> dict[str, list[Tensor]]:
        """Tokens of boxes [n,4] xyxy in pixels of originals of `sizes` (height, width), n may be 0.

        Returns position -> per image float32 [n,d]; positions of the spec by default.
        """
        ...

    def masks(self, embedding: Embedding, boxes: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Of one image: bool [n,height,width] at its original size, and predicted IoU float32 [n]."""
        ...
