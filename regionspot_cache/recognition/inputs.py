"""Images and their boxes, with the frozen features that methods ask for, each computed at most once.

Features of one image are computed when asked for; `encode_together` computes those of a batch beforehand.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from regionspot_cache.backbones import Backbone, MaskEncoder, RegionProposer
from regionspot_cache.backbones.proposer import Proposals, SamRpnProposer
from regionspot_cache.backbones.sam_base import Embedding, FrozenSam, LayeredEmbedding, cells_of
from regionspot_cache.datasets.regions import BOX_QUERY, position_vectors
from regionspot_cache.recognition.masks import BoxMasks

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

    Attributes:
        from_cache: the arrays, PART/ARRAY, that were taken from `cached`.
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
        self._of_boxes: dict[str, torch.Tensor] = {}
        self._prepared: dict[str, torch.Tensor] = {}
        self._proposals: dict[RegionProposer, Proposals] = {}
        self.from_cache: set[str] = set()

    @property
    def image(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] RGB."""
        if callable(self._source):  # a cached_property of Python 3.11 would read one image at a time
            self._source = self._source()
        return self._source

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
        other._of_image, other._prepared, other.from_cache = self._of_image, self._prepared, self.from_cache
        return other

    def network_input(self, part: str) -> torch.Tensor:
        """The image as the network of a part takes it, on the CPU."""
        if part not in self._prepared:
            self._prepared[part] = self.backbone.parts[part].preprocess(self.image)
        return self._prepared[part]

    def prepare(self, paths: Iterable[str], *, new_boxes: bool = False) -> None:
        """Reads the file and prepares what networks take, for those of the arrays that are not cached.

        Args:
            paths: PART/ARRAY; `BOX_QUERY` needs nothing.
            new_boxes: boxes are still to come, so no cached array of boxes counts.
        """
        for path in paths:
            if path == BOX_QUERY:
                continue
            part, _, name = path.partition("/")
            encoder = self.backbone.parts[part]
            array = encoder.arrays.get(name)
            by_box = array is not None and array.per_box
            embedded = isinstance(encoder, FrozenSam) and f"{part}/{EMBEDDING}" in self._cached
            if not (embedded or (path in self._cached and not (by_box and new_boxes))):
                self.network_input(part)

    def proposals(self, proposer: RegionProposer) -> Proposals:
        """Boxes of the image by a proposer, on the embedding that it reads where that is one of a part."""
        if proposer not in self._proposals:
            propose_together([self], proposer)
        return self._proposals[proposer]

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
                self._embeddings[part] = encoder.restored(self._take(path))
                self._restored.add(part)
            else:
                self._embeddings[part] = encoder.embed(self.network_input(part)[None])
        return self._embeddings[part]

    @cached_property
    def masks(self) -> BoxMasks:
        """SAM's mask of every box."""
        return BoxMasks(self._decode_masks, self.size)

    def _decode_masks(self, boxes: NDArray[np.intp]) -> torch.Tensor:
        """Masks of some boxes, bool [n, H, W]."""
        encoder = self.backbone.masks
        part = next(name for name, found in self.backbone.parts.items() if found is encoder)
        if isinstance(encoder, FrozenSam) and not encoder.masks_need_cells_alone:
            self._computed.add(part)
            if part in self._restored:
                self._restored.remove(part)
                del self._embeddings[part]
        return encoder.masks(self.embedding_of(part), self.boxes[boxes], self.size)[0]

    @property
    def _device(self) -> torch.device:
        return next(iter(self.backbone.parts.values())).device

    def _take(self, path: str) -> NDArray[np.float32]:
        self.from_cache.add(path)
        return self._cached[path]

    def _array(self, path: str) -> torch.Tensor:
        if path in self._cached:
            device = self.backbone.parts[path.partition("/")[0]].device
            return torch.from_numpy(self._take(path)).to(device)
        encode_together([self], (path,))
        return self._of_boxes[path] if path in self._of_boxes else self._of_image[path]

    def _lacks(self, path: str) -> bool:
        return not any(path in there for there in (self._cached, self._of_boxes, self._of_image))

    def _lacks_embedding(self, part: str) -> bool:
        restorable = f"{part}/{EMBEDDING}" in self._cached and part not in self._computed
        return part not in self._embeddings and not restorable

    def _keep(self, part: str, found: Mapping[str, torch.Tensor]) -> None:
        """All arrays of one pass, which a head may read too."""
        for name, values in found.items():
            path = f"{part}/{name}"
            by_box = self.backbone.parts[part].arrays[name].per_box
            if by_box or path not in self._cached:
                (self._of_boxes if by_box else self._of_image).setdefault(path, values.float())


def embedding_part(backbone: Backbone, proposer: RegionProposer | None) -> str | None:
    """The part whose embeddings a proposer reads."""
    if not isinstance(proposer, SamRpnProposer):
        return None
    return next((name for name, encoder in backbone.parts.items() if encoder is proposer.sam), None)


def propose_together(batch: Sequence[RegionInputs], proposer: RegionProposer) -> None:
    """Boxes of images by a proposer: in one pass where it reads SAM's embeddings, else image by image."""
    part = embedding_part(batch[0].backbone, proposer) if batch else None
    if part is None or not isinstance(proposer, SamRpnProposer):
        for inputs in batch:
            inputs._proposals[proposer] = proposer.propose(inputs.image)
        return
    embed_together(batch, part)
    cells = torch.cat([cells_of(inputs.embedding_of(part)) for inputs in batch])
    found = proposer.propose_on(cells, [inputs.size for inputs in batch])
    for inputs, proposals in zip(batch, found, strict=True):
        inputs._proposals[proposer] = proposals


def embed_together(batch: Sequence[RegionInputs], part: str) -> None:
    """SAM's embeddings of the images that have none, in one pass; those of other networks cannot be split."""
    encoder = batch[0].backbone.parts[part] if batch else None
    if not isinstance(encoder, FrozenSam):
        return
    for alike in _alike([inputs for inputs in batch if inputs._lacks_embedding(part)], part):
        found = encoder.embed(torch.stack([inputs.network_input(part) for inputs in alike]))
        for i, inputs in enumerate(alike):
            inputs._embeddings[part] = _one_of(found, i)


def encode_together(batch: Sequence[RegionInputs], paths: Iterable[str]) -> None:
    """Computes the arrays PART/ARRAY of all images that have them neither cached nor computed.

    Every network runs once on the images whose input has one shape, SAM's decoder on the boxes of all images.

    Raises:
        ImageFailure: the file of an image that had to be read cannot be.
    """
    for path in paths:
        part, _, name = path.partition("/")
        lacking = [] if path == BOX_QUERY else [inputs for inputs in batch if inputs._lacks(path)]
        if not lacking:
            continue
        encoder: Any = lacking[0].backbone.parts[part]
        if isinstance(encoder, FrozenSam):
            embed_together(lacking, part)
            _decode(encoder, lacking, part, name)
        elif encoder.arrays[name].per_box and isinstance(encoder, MaskEncoder):
            for inputs in lacking:
                found = encoder.tokens(inputs.embedding_of(part), [inputs.boxes], [inputs.size])
                inputs._keep(part, {key: values[0] for key, values in found.items()})
        else:
            for alike in _alike(lacking, part):
                pixels = torch.stack([inputs.network_input(part) for inputs in alike])
                found = encoder.encode(pixels, [i.boxes for i in alike], [i.size for i in alike])
                for i, inputs in enumerate(alike):
                    inputs._keep(part, {key: found[key][i] for key in encoder.arrays})


def _decode(encoder: FrozenSam, batch: Sequence[RegionInputs], part: str, name: str) -> None:
    if not encoder.arrays[name].per_box:
        for inputs in batch:
            inputs._keep(part, {name: encoder.stored(inputs.embedding_of(part))[0]})
        return
    cells = torch.cat([cells_of(inputs.embedding_of(part)) for inputs in batch])
    found = encoder.tokens(cells, [inputs.boxes for inputs in batch], [inputs.size for inputs in batch])
    for i, inputs in enumerate(batch):
        inputs._keep(part, {key: values[i] for key, values in found.items()})


def _alike(batch: Sequence[RegionInputs], part: str) -> list[list[RegionInputs]]:
    """Images by the shape of their input: some networks pad nothing."""
    found: dict[torch.Size, list[RegionInputs]] = {}
    for inputs in batch:
        found.setdefault(inputs.network_input(part).shape, []).append(inputs)
    return list(found.values())


def _one_of(embeddings: Embedding, i: int) -> Embedding:
    if isinstance(embeddings, LayeredEmbedding):
        return LayeredEmbedding(
            embeddings.cells[i : i + 1], tuple(level[i : i + 1] for level in embeddings.fine)
        )
    return embeddings[i : i + 1]
