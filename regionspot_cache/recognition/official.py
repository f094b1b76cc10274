"""RegionSpot's own inference path for the same head, as its evaluation code runs it.

The image is first resized as by Detectron2 (short side 800, long side at most 1333), and everything sees that
image: SAM resizes it again to 1024, CLIP takes it squashed without antialias. The 900 most probable pairs of
box and class are taken before objectness counts.

What still differs: the arithmetic is float32 (their fp16 softmax makes many small probabilities zero or
equal); each coordinate is scaled by the ratio of its own side (their code swaps the two, which differ by
rounding only); SAM's masks are computed from the original image instead of being enlarged to it; class names
keep the endings `-other`, `-merged` and `-stuff`.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from regionspot_cache.backbones import ClipBackbone
from regionspot_cache.backbones.presets import Position
from regionspot_cache.errors import UsageError
from regionspot_cache.evaluation.selection import ScoreRule
from regionspot_cache.recognition.inputs import RegionInputs
from regionspot_cache.training.head import RegionHead

SHORT_SIDE, LONG_SIDE = 800, 1333


class OfficialRegionSpot:
    """The head on features computed as the official code does; features of a cache are never used."""

    name = "official"
    score_rule: ScoreRule | None = "official"

    def __init__(self, head: RegionHead, *, position: Position = "transformer") -> None:
        self.head = head.eval()
        self.position: Position = position

    @torch.inference_mode()
    def logits(self, inputs: RegionInputs, text: torch.Tensor) -> torch.Tensor:
        """float32 [N, K] for N boxes and unit text embeddings [K, E].

        Raises:
            UsageError: the CLIP side is not one of open_clip, whose input this path prescribes.
        """
        if len(inputs.boxes) == 0:
            return text.new_zeros(0, len(text))
        clip = inputs.backbone.clip
        if not isinstance(clip, ClipBackbone):
            raise UsageError("The official path with a CLIP of your own.", "A CLIP of open_clip.")
        image = resize_short_side(inputs.image)
        tokens = self._tokens(inputs, image)
        image_map = clip.encode_map(clip.squash(image, "bilinear-noantialias")[None])
        return self.head.logits(self.head(tokens[None], image_map.float()), text)[0]

    def _tokens(self, inputs: RegionInputs, image: NDArray[np.uint8]) -> torch.Tensor:
        """SAM's token of every box, float32 [N, T]."""
        sam, size = inputs.backbone.sam, (image.shape[0], image.shape[1])
        boxes = inputs.boxes * np.tile(np.array(size[::-1]) / inputs.size[::-1], 2)
        embedding = sam.embed(sam.preprocess(image)[None])
        return sam.tokens(embedding, [boxes], [size], positions=(self.position,))[self.position][0].float()


def resized_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of Detectron2's `ResizeShortestEdge(800, 1333)`: rounded part up, at least a pixel."""
    scale = min(SHORT_SIDE / min(height, width), LONG_SIDE / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_short_side(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] to its `resized_size`, by Pillow's bilinear filter."""
    height, width = resized_size(*image.shape[:2])
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
