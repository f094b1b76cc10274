"""Recognition methods behind one interface: image and boxes in, one logit for every box and class out.

`regionspot` relates SAM tokens to CLIP's map; `clip-box` and `clip-mask` are the paper's baselines, which run
CLIP on crops. The softmax over a method's logits is its class probability (as in the official code).
"""

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from regionspot_cache.backbones.presets import HeadInputs
from regionspot_cache.evaluation.selection import ScoreRule
from regionspot_cache.recognition.inputs import RegionInputs
from regionspot_cache.training.head import RegionHead

# Side of the crop over the side of the box: for each baseline the stronger of 1.0 and 1.25 on `shapes`.
BOX_CONTEXT, MASK_CONTEXT = 1.0, 1.25
CROP_BATCH = 64
CPU_BATCH = 8  # whose activations stay in the caches


class Recogniser(Protocol):
    """What every method offers.

    Attributes:
        score_rule: how probability and objectness become the score, where the method itself says so.
    """

    name: str
    score_rule: ScoreRule | None

    def logits(self, inputs: RegionInputs, text: torch.Tensor) -> torch.Tensor:
        """float32 [N, K] for N boxes and unit text embeddings [K, E]."""


class HeadMethod(ABC):
    """A trained head on a vector of every box and the maps of the whole image."""

    name: str
    score_rule: ScoreRule | None = None

    def __init__(self, head: RegionHead, arrays: HeadInputs | None = None) -> None:
        self.head, self.arrays = head.eval(), arrays or HeadInputs()

    @torch.inference_mode()
    def logits(self, inputs: RegionInputs, text: torch.Tensor) -> torch.Tensor:
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


class ClipCrops:
    """CLIP on a crop of every box; with `masked`, pixels outside SAM's mask take CLIP's mean colour."""

    score_rule: ScoreRule | None = None

    def __init__(self, *, masked: bool) -> None:
        self.masked = masked
        self.context = MASK_CONTEXT if masked else BOX_CONTEXT
        self.name = "clip-mask" if masked else "clip-box"

    @torch.inference_mode()
    def logits(self, inputs: RegionInputs, text: torch.Tensor) -> torch.Tensor:
        clip = inputs.backbone.text
        out = [text.new_zeros(0, len(text))]
        size = CPU_BATCH if text.device.type == "cpu" else CROP_BATCH
        for start in range(0, len(inputs.boxes), size):
            rows = range(start, min(start + size, len(inputs.boxes)))
            batch = torch.stack([clip.preprocess(self._crop(inputs, i)) for i in rows])
            out.append(clip.logit_scale * normalize(clip.encode_image(batch).float(), dim=-1) @ text.T)
        return torch.cat(out)

    def _crop(self, inputs: RegionInputs, i: int) -> NDArray[np.uint8]:
        x0, y0, x1, y1 = crop_window(inputs.boxes[i], inputs.size, self.context)
        crop = inputs.image[y0:y1, x0:x1]
        if not self.masked:
            return crop
        inside = inputs.masks[0][i, y0:y1, x0:x1, None]
        fill = np.round(255 * np.asarray(inputs.backbone.text.mean)).astype(np.uint8)
        return np.where(inside, crop, fill)


def crop_window(box: NDArray[np.float32], size: tuple[int, int], context: float) -> tuple[int, int, int, int]:
    """The box grown `context` times about its centre, within the image: x0, y0, x1, y1."""
    height, width = size
    centre_x, centre_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half_w, half_h = (box[2] - box[0]) / 2 * context, (box[3] - box[1]) / 2 * context
    x0 = int(np.clip(np.floor(centre_x - half_w), 0, width - 1))
    y0 = int(np.clip(np.floor(centre_y - half_h), 0, height - 1))
    x1 = int(np.clip(np.ceil(centre_x + half_w), x0 + 1, width))
    y1 = int(np.clip(np.ceil(centre_y + half_h), y0 + 1, height))
    return x0, y0, x1, y1
