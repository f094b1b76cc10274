"""One image and its boxes, with the frozen features that methods ask for, each computed at most once."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from regionspot_cache.backbones import Backbone, MaskEncoder, RegionProposer
from regionspot_cache.backbones.proposer import Proposals, SamRpnProposer
from regionspot_cache.backbones.sam_base import FrozenSam
from regionspot_cache.datasets.regions import BOX_QUERY, position_vectors

EMBEDDING = "embedding"


class RegionInputs:
    """Pixels, boxes and features of one image.

    Args:
        backbone: the frozen networks.
        image: uint8 [H, W, 3] RGB, or a function that reads it when it is first needed.
        boxes: float32 [N, 4] xyxy, pixels of the original image.
        size: (height, width), needed when `image` is a function.
        cached: features from a cache by PART/ARRAY, float32: of the image, or one row for each of `boxes`;
            may be a mapping that reads them when asked.
    """

    def __init__(
        self,
        backbone: Backbone,
        image: NDArray[np.uint8] | Callable[[], NDArray[np.uint8]],
        boxes: NDArray[np.float32],
        *,
        size: tuple[int, int] | None = None,
        cached: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        self.backbone = backbone
        self.boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        self._source = image
        self._size = size if callable(image) else image.shape[:2]
        self._cached: Mapping[str, NDArray[np.float32]] = cached if cached is not None else {}
        self._computed: set[str] = set()  # parts whose embedding must not come out of the cache
        self._embeddings: dict[str, Any] = {}
        self._restored: set[str] = set()  # parts whose embedding came out of the cache
        self._of_image: dict[str, torch.Tensor] = {}

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] RGB."""
        return self._source() if callable(self._source) else self._source

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the original image."""
        return self._size or self.image.shape[:2]

    def on(
        self, boxes: NDArray[np.float32], cached: Mapping[str, NDArray[np.float32]] | None = None
    ) -> "RegionInputs":
        """The same image with other boxes and what is cached of both; what was computed of it is shared."""
        other = RegionInputs(self.backbone, lambda: self.image, boxes, size=self.size, cached=cached)
        other._embeddings, other._restored = self._embeddings, self._restored
        other._of_image = self._of_image
        return other

    def proposals(self, proposer: RegionProposer) -> Proposals:
        """Boxes of the image by a proposer, which gets the embedding that it reads."""
        if isinstance(proposer, SamRpnProposer):
            for part, encoder in self.backbone.parts.items():
                if encoder is proposer.sam:
                    return proposer.propose(self.image, self.embedding_of(part))
        return proposer.propose(self.image)

    def query(self, path: str) -> torch.Tensor:
        """A vector for every box, float32 [N, D]: PART/ARRAY, or `BOX_QUERY`."""
        if path == BOX_QUERY:
            vectors = position_vectors(self.boxes, self.size[::-1])
            return torch.from_numpy(vectors).to(self._device)
        return self._array(path)

    def memory(self, paths: tuple[str, ...]) -> torch.Tensor:
        """Maps of the image one after the other, float32 [M, C]."""
        for path in paths:
            if path not in self._of_image:
                self._of_image[path] = self._array(path)
        return torch.cat([self._of_image[path] for path in paths])

    def embedding_of(self, part: str) -> Any:
        """What the network of a part decodes boxes from; out of the cache where it is there."""
        if part not in self._embeddings:
            encoder: Any = self.backbone.parts[part]
            path = f"{part}/{EMBEDDING}"
            if path in self._cached and part not in self._computed and isinstance(encoder, FrozenSam):
                self._embeddings[part] = encoder.restored(self._cached[path])
                self._restored.add(part)
            else:
                self._embeddings[part] = encoder.embed(encoder.preprocess(self.image)[None])
        return self._embeddings[part]

    @cached_property
    def masks(self) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """A mask of every box, bool [N, H, W], and its predicted IoU, float32 [N]."""
        encoder = self.backbone.masks
        part = next(name for name, found in self.backbone.parts.items() if found is encoder)
        if isinstance(encoder, FrozenSam) and not encoder.masks_need_cells_alone:
            self._computed.add(part)
            if part in self._restored:
                self._restored.remove(part)
                del self._embeddings[part]
        masks, quality = encoder.masks(self.embedding_of(part), self.boxes, self.size)
        return masks.cpu().numpy(), quality.float().cpu().numpy()

    @property
    def _device(self) -> torch.device:
        return next(iter(self.backbone.parts.values())).device

    def _array(self, path: str) -> torch.Tensor:
        part, _, name = path.partition("/")
        encoder = self.backbone.parts[part]
        if path in self._cached:
            return torch.from_numpy(self._cached[path]).to(encoder.device)
        if isinstance(encoder, MaskEncoder) and encoder.arrays[name].per_box:
            found = encoder.tokens(self.embedding_of(part), [self.boxes], [self.size])
        elif isinstance(encoder, FrozenSam):
            found = {name: encoder.stored(self.embedding_of(part))}
        else:
            found = encoder.encode(encoder.preprocess(self.image)[None], [self.boxes], [self.size])
            self._keep(part, found)
        return found[name][0].float()

    def _keep(self, part: str, found: Mapping[str, Any]) -> None:
        """Other maps of the same pass, which a head may read too."""
        for name, array in self.backbone.parts[part].arrays.items():
            path = f"{part}/{name}"
            if not array.per_box and path not in self._cached:
                self._of_image.setdefault(path, found[name][0].float())
