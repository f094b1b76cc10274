"""What the rest of the project asks of a frozen network: of those here, or of one of yours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

Size = tuple[int, int]  # height, width in pixels


@dataclass(frozen=True, kw_only=True)
class Array:
    """One array that a network gives.

    Attributes:
        shape: of one record: (D,) of a token, (N, C) of a map.
        per_box: one record a box instead of one an image.
        grid: rows and columns of a map whose last rows * columns tokens lie row by row over the image; what
            stands before them are prefix tokens, such as a class token.
    """

    shape: tuple[int, ...]
    per_box: bool = False
    grid: tuple[int, int] | None = None


class Encoder(Protocol):
    """A frozen network as a part of a cache. Its results are on `device`."""

    @property
    def device(self) -> torch.device:
        """Where the network runs."""

    @property
    def arrays(self) -> Mapping[str, Array]:
        """What `encode` gives and the cache stores, by name."""

    def fingerprint(self) -> dict[str, Any]:
        """All that decides the values, json-able; the same on every machine."""

    def preprocess(self, image: np.ndarray) -> Tensor:
        """A whole image, uint8 [H,W,3] RGB, to the network's input on the CPU; called by several threads.

        Resized pixels as uint8 are a quarter of the bytes of float32: the networks here give those, and
        normalise on the device.
        """

    def encode(
        self, batch: Tensor, boxes: Sequence[np.ndarray], sizes: Sequence[Size]
    ) -> Mapping[str, Sequence[Tensor] | Tensor]:
        """The features of B images.

        Args:
            batch: B inputs of `preprocess`, stacked.
            boxes: of every image, float32 [n,4] xyxy in pixels of the original; n may be 0.
            sizes: (height, width) of every original.

        Returns:
            by array name, for every image float [n, *shape] (per box) or [*shape].
        """


@runtime_checkable
class TextEncoder(Protocol):
    """A network that embeds whole images and texts in one space, such as CLIP."""

    @property
    def device(self) -> torch.device:
        """Where the network runs."""

    @property
    def mean(self) -> tuple[float, ...]:
        """RGB in 0..1 that the network takes as zero; masked crops are filled with it."""

    @property
    def logit_scale(self) -> float:
        """Factor of cosine similarities before a softmax, about 100 for trained models."""

    def text_fingerprint(self) -> dict[str, Any]:
        """All that decides the values of `encode_text`, json-able."""

    def preprocess(self, image: np.ndarray) -> Tensor:
        """As of `Encoder`."""

    def encode_image(self, batch: Tensor) -> Tensor:
        """Stacked inputs to image embeddings, float32 [B,E], not normalised."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts to embeddings, float32 [T,E], not normalised."""


@runtime_checkable
class Compilable(Protocol):
    """A network whose inputs have one shape, and that can be compiled."""

    def image_network(self, batch: Tensor) -> Any:
        """What `encode` calls for the costly part of its work: tensors [B, ...] of a batch, by it alone.

        On an object that is compiled this attribute is replaced.
        """


@runtime_checkable
class MaskEncoder(Protocol):
    """A network that also decodes any boxes from the embedding of an image, such as SAM."""

    def embed(self, batch: Tensor) -> Any:
        """Embeddings of stacked inputs, for `tokens` and `masks`, which alone look into them."""

    def tokens(
        self, embeddings: Any, boxes: Sequence[np.ndarray], sizes: Sequence[Size]
    ) -> Mapping[str, Sequence[Tensor]]:
        """The arrays by box of `Encoder.encode`."""

    def masks(self, embedding: Any, boxes: np.ndarray, size: Size) -> tuple[Tensor, Tensor]:
        """Of one image: bool [n,height,width] at its original size, and predicted IoU float32 [n]."""
