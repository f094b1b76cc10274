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

from regionspot_cache.backbones import ClipBackbone, MaskEncoder
from regionspot_cache.errors import UsageError
from regionspot_cache.evaluation.selection import ScoreRule
from regionspot_cache.recognition.inputs import RegionInputs
from regionspot_cache.recognition.methods import HeadMethod

SHORT_SIDE, LONG_SIDE = 800, 1333


class OfficialRegionSpot(HeadMethod):
    """The head on features computed as the official code does; features of a cache are never used."""

    name = "official"
    score_rule: ScoreRule | None = "official"
    reads_pixels = True

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    def _inputs(self, inputs: RegionInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """UsageError where the head does not relate a SAM to one map of a CLIP of open_clip."""
        (sam_part, token), (clip_part, name), *more = (
            path.split("/") for path in (self.arrays.query, *self.arrays.memory)
        )
        sam, clip = (inputs.backbone.parts.get(part) for part in (sam_part, clip_part))
        if more or not isinstance(sam, MaskEncoder) or not isinstance(clip, ClipBackbone):
            raise UsageError(
                f"The official path with the query {self.arrays.query} and the memory "
                f"{', '.join(self.arrays.memory)}.",
                "A token of a SAM, and one map of a CLIP of open_clip.",
            )
        image = resize_short_side(inputs.image)
        size = (image.shape[0], image.shape[1])
        boxes = inputs.boxes * np.tile(np.array(size[::-1]) / inputs.size[::-1], 2)
        embedding = sam.embed(inputs.backbone.parts[sam_part].preprocess(image)[None])
        tokens = sam.tokens(embedding, [boxes], [size])[token][0].float()
        image_map = clip.encode(clip.squash(image, "bilinear-noantialias")[None])[name]
        return tokens, image_map[0].float()


def resized_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of Detectron2's `ResizeShortestEdge(800, 1333)`: rounded part up, at least a pixel."""
    scale = min(SHORT_SIDE / min(height, width), LONG_SIDE / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_short_side(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] to its `resized_size`, by Pillow's bilinear filter."""
    height, width = resized_size(*image.shape[:2])
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
