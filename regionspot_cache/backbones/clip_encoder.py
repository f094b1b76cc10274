"""What the rest of the project asks of the CLIP side: of `ClipBackbone`, or of a network of your own."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class ClipEncoder(Protocol):
    """A frozen pair of image and text encoders of one embedding space.

    Shapes: B images, R the input's side, N = prefix tokens + rows * columns map tokens, C their width,
    T texts, E the width of embeddings.
    """

    @property
    def device(self) -> torch.device:
        """Where the networks run and where their results are."""
        ...

    @property
    def image_size(self) -> int:
        """R, in pixels."""
        ...

    @property
    def map_shape(self) -> tuple[int, int]:
        """(N, C) of a map: prefix tokens first, then the grid row by row."""
        ...

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the grid: 1 for a class token, 0 for none."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patch tokens."""
        ...

    @property
    def mean(self) -> tuple[float, ...]:
        """RGB in 0..1 that `preprocess` makes zero; masked crops are filled with it."""
        ...

    @property
    def logit_scale(self) -> float:
        """Factor of cosine similarities before a softmax, about 100 for trained models."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """All that decides the values of the maps, json-able; the same on every machine."""
        ...

    def text_fingerprint(self) -> dict[str, Any]:
        """All that decides the values of `encode_text`, json-able."""
        ...

    def preprocess(self, image: np.ndarray) -> Tensor:
        """A whole image, uint8 [H,W,3] RGB, to an input, float32 [3,R,R] on the CPU; called by threads."""
        ...

    def encode_map(self, batch: Tensor) -> Tensor:
        """Inputs [B,3,R,R] to maps, float32 [B,N,C]."""
        ...

    def encode_image(self, batch: Tensor) -> Tensor:
        """Inputs [B,3,R,R] to image embeddings, float32 [B,E], not normalised."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts to embeddings, float32 [T,E], not normalised."""
        ...
