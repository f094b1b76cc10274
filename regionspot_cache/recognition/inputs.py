"""One image and its boxes, with the frozen features that methods ask for, each computed at most once."""

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from regionspot_cache.backbones import Backbone
from regionspot_cache.backbones.presets import Position

# Shapes: N boxes, M map tokens, C map width, T token width, E and h, w of SAM's image embedding.


class RegionInputs:
    """Pixels, boxes and features of one image.

    Args:
        backbone: the frozen networks.
        image: uint8 [H, W, 3] RGB, or a function that reads it when it is first needed.
        boxes: float32 [N, 4] xyxy, pixels of the original image.
        size: (height, width), needed when `image` is a function.
        cached_map: float32 [M, C] from a cache; saves running CLIP.
        cached_tokens: float32 [N, T] by position from a cache, one row a box; saves running SAM.
    """

    def __init__(
        self,
        backbone: Backbone,
        image: NDArray[np.uint8] | Callable[[], NDArray[np.uint8]],
        boxes: NDArray[np.float32],
        *,
        size: tuple[int, int] | None = None,
        cached_map: NDArray[np.float32] | None = None,
        cached_tokens: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        self.backbone = backbone
        self.boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        self._source = image
        self._size = size if callable(image) else image.shape[:2]
        self._cached_map, self._cached_tokens = cached_map, cached_tokens or {}

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] RGB."""
        return self._source() if callable(self._source) else self._source

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the original image."""
        return self._size or self.image.shape[:2]

    @cached_property
    def embedding(self) -> torch.Tensor:
        """SAM's image embedding, [1, E, h, w]."""
        sam = self.backbone.sam
        return sam.embed(sam.preprocess(self.image)[None])

    @cached_property
    def map(self) -> torch.Tensor:
        """CLIP's token map, float32 [M, C], class token first."""
        clip = self.backbone.clip
        if self._cached_map is not None:
            return torch.from_numpy(self._cached_map).to(clip.device)
        return clip.encode_map(clip.preprocess(self.image)[None])[0].float()

    def tokens(self, position: Position = "transformer") -> torch.Tensor:
        """SAM's token of every box, float32 [N, T]."""
        sam = self.backbone.sam
        if position in self._cached_tokens:
            return torch.from_numpy(self._cached_tokens[position]).to(sam.device)
        return sam.tokens(self.embedding, [self.boxes], [self.size], positions=(position,))[position][
            0
        ].float()

    @cached_property
    def masks(self) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """SAM's mask of every box, bool [N, H, W], and its predicted IoU, float32 [N]."""
        masks, quality = self.backbone.sam.masks(self.embedding, self.boxes, self.size)
        return masks.cpu().numpy(), quality.float().cpu().numpy()
