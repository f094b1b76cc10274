"""Recognition methods behind one interface: image and boxes in, probabilities of classes out.

`regionspot` relates SAM tokens to CLIP's map; module `embedding` has the methods that embed every box.
"""

from abc import ABC, abstractmethod
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
        text_part: the part whose text encoder embeds its class names; None for the backbone's first.
    """

    name: str
    score_rule: ScoreRule | None

    @property
    def reads(self) -> tuple[str, ...]: ...

    @property
    def text_part(self) -> str | None: ...

    def probabilities(self, inputs: RegionInputs, text: torch.Tensor) -> NDArray[np.float32]:
        """float32 [N, K] for N boxes and unit text embeddings [K, E].

        Rows sum to 1, or to less where the method also knows that a box shows none of the classes.
        """
        ...


class HeadMethod(ABC):
    """A trained head on a vector of every box and the maps of the whole image."""

    name: str
    score_rule: ScoreRule | None = None
    text_part: str | None = None

    def __init__(self, head: RegionHead, arrays: HeadInputs | None = None) -> None:
        self.head, self.arrays = head.eval(), arrays or HeadInputs()

    @property
    def reads(self) -> tuple[str, ...]:
        return self.arrays.arrays

    def probabilities(self, inputs: RegionInputs, text: torch.Tensor) -> NDArray[np.float32]:
        return self.logits(inputs, text).softmax(-1).float().cpu().numpy()

    @torch.inference_mode()
    def logits(self, inputs: RegionInputs, text: torch.Tensor) -> torch.Tensor:
        """float32 [N, K]; the softmax over them is the probability (as in the official code)."""
        if len(inputs.boxes) == 0:
            return text.new_zeros(0, len(text))
        return self.head.logits(self.head(*self._inputs(inputs)), text)[0]

    @abstractmethod
    def _inputs(self, inputs: RegionInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors [1, N, D] and maps [1, M, C]."""


class RegionSpot(HeadMethod):
    """The head on features as a cache has them."""

    name = "regionspot"

    @torch.inference_mode()
    def attention(self, inputs: RegionInputs) -> NDArray[np.float32]:
        """Cross-attention weights of every layer and box over the map tokens, float32 [L, N, M]."""
        _, weights = self.head(*self._inputs(inputs), return_attention=True)
        return torch.stack([layer[0] for layer in weights]).float().cpu().numpy()

    def _inputs(self, inputs: RegionInputs) -> tuple[torch.Tensor, torch.Tensor]:
        return inputs.query(self.arrays.query)[None], inputs.memory(self.arrays.memory)[None]
