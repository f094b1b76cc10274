"""Recognition methods behind one interface: images and boxes in, embeddings and probabilities of classes out.

`regionspot` relates SAM tokens to CLIP's map; module `embedding` has the methods that embed every box.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from regionspot_cache.backbones.presets import HeadInputs
from regionspot_cache.evaluation.selection import ScoreRule
from regionspot_cache.recognition.inputs import RegionInputs
from regionspot_cache.training.head import RegionHead


class Recogniser(Protocol):
    """What every method offers.

    Attributes:
        score_rule: how probability and objectness become the score, where the method itself says so.
        reads: the arrays that it reads, PART/ARRAY; a cache may have them.
        reads_pixels: it looks at the image itself, whatever is cached.
        text_part: the part whose text encoder embeds its class names; None for the backbone's first.
    """

    name: str
    score_rule: ScoreRule | None
    reads_pixels: bool

    @property
    def reads(self) -> tuple[str, ...]: ...

    @property
    def text_part(self) -> str | None: ...

    def embed(self, batch: Sequence[RegionInputs]) -> list[torch.Tensor]:
        """Embeddings of the boxes of every image, float32 [N_i, E], not normalised, in the space of its text
        encoder; the networks run on all images of the batch at once where they can.

        Raises:
            ImageFailure: a file was needed and cannot be read.
        """
        ...

    def scores(self, embeddings: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Probabilities float32 [N, K] of embeddings [N, E] and unit text embeddings [K, E].

        Rows sum to 1, or to less where the method also knows that a box shows none of the classes.
        """
        ...

    def probabilities(self, inputs: RegionInputs, text: torch.Tensor) -> NDArray[np.float32]:
        """`scores` of what `embed` gives of one image, float32 [N, K]."""
        ...


class RegionMethod(ABC):
    """What all methods here share."""

    name: str
    score_rule: ScoreRule | None = None
    reads_pixels = False
    text_part: str | None = None

    @abstractmethod
    def embed(self, batch: Sequence[RegionInputs]) -> list[torch.Tensor]:
        """As of `Recogniser`."""

    @abstractmethod
    def scores(self, embeddings: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """As of `Recogniser`."""

    def probabilities(self, inputs: RegionInputs, text: torch.Tensor) -> NDArray[np.float32]:
        """As of `Recogniser`."""
        if len(inputs.boxes) == 0:
            return np.zeros((0, len(text)), np.float32)
        return self.scores(self.embed([inputs])[0], text).cpu().numpy()


class HeadMethod(RegionMethod):
    """A trained head on a vector of every box and the maps of the whole image."""

    def __init__(self, head: RegionHead, arrays: HeadInputs | None = None) -> None:
        self.head, self.arrays = head.eval(), arrays or HeadInputs()

    @property
    def reads(self) -> tuple[str, ...]:
        """As of `Recogniser`."""
        return self.arrays.arrays

    @torch.inference_mode()
    def embed(self, batch: Sequence[RegionInputs]) -> list[torch.Tensor]:
        """As of `Recogniser`; images with the same number of boxes pass the head together."""
        nothing = torch.zeros(0, self.head.config.text_dim, device=next(self.head.parameters()).device)
        found = [nothing] * len(batch)
        counts = [len(inputs.boxes) for inputs in batch]
        for count in dict.fromkeys(filter(None, counts)):
            alike = [i for i, n in enumerate(counts) if n == count]
            vectors, maps = zip(*(self._inputs(batch[i]) for i in alike), strict=True)
            for i, embeddings in zip(alike, self.head(torch.stack(vectors), torch.stack(maps)), strict=True):
                found[i] = embeddings.float()
        return found

    @torch.inference_mode()
    def scores(self, embeddings: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """As of `Recogniser`: a softmax, as in the official code."""
        return self.head.logits(embeddings, text).softmax(-1)

    def logits(self, inputs: RegionInputs, text: torch.Tensor) -> torch.Tensor:
        """float32 [N, K]; the softmax over them is the probability."""
        return self.head.logits(self.embed([inputs])[0], text)

    @abstractmethod
    def _inputs(self, inputs: RegionInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors [N, D] and maps [M, C]."""


class RegionSpot(HeadMethod):
    """The head on features as a cache has them."""

    name = "regionspot"

    @torch.inference_mode()
    def attention(self, inputs: RegionInputs) -> NDArray[np.float32]:
        """Cross-attention weights of every layer and box over the map tokens, float32 [L, N, M]."""
        vectors, maps = self._inputs(inputs)
        _, weights = self.head(vectors[None], maps[None], return_attention=True)
        return torch.stack([layer[0] for layer in weights]).float().cpu().numpy()

    def _inputs(self, inputs: RegionInputs) -> tuple[torch.Tensor, torch.Tensor]:
        return inputs.query(self.arrays.query), inputs.memory(self.arrays.memory)
