"""A cache whose regions have no labels: a frozen teacher and captions say what they show."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.regions import BOX_QUERY, position_vectors
from regionspot_cache.hashing import random64
from regionspot_cache.store import Cache
from regionspot_cache.training.config import CaptionOptions
from regionspot_cache.training.sources import FeatureSource, Seen
from regionspot_cache.training.targets import CaptionEmbeddings, ConceptTargets, Teaching

_REGIONS, _CAPTION = 0, 1  # tags that keep the two random streams apart


class EveryBox:
    """All boxes of a cache, as `store.LabelledCache` has those of a dataset."""

    def __init__(self, cache: Cache) -> None:
        self.cache, self.left_out = cache, Counter[str]()
        self.num_images, self.partition_size = cache.num_images, cache.partition_size
        self.offsets, self.views, self.origins = cache.offsets, cache.views, cache.origins
        self.ok_mask = cache.ok_mask

    def queries(self, path: str, i: int) -> NDArray[np.float32]:
        """float32 [n, D] of the boxes of image i, of PART/ARRAY by box or `regions.BOX_QUERY`."""
        if path == BOX_QUERY:
            return position_vectors(self.cache.boxes(i), self.cache.size(i))
        return self.cache.read(path, i)


class CaptionTargets(NamedTuple):
    """What the losses compare a batch with; R of its T real boxes are kept regions, F are captioned pictures.

    Attributes:
        kept: int64 [R], which of the real boxes the teacher is sure of.
        ids: int64 [R, k], their likeliest concepts.
        probs: float32 [R, k].
        rest: float32 [R].
        frames: int64 [F], which of the real boxes are whole pictures with a caption.
        captions: float32 [F, E], their captions, of unit length.
    """

    kept: NDArray[np.int64]
    ids: NDArray[np.int64]
    probs: NDArray[np.float32]
    rest: NDArray[np.float32]
    frames: NDArray[np.int64]
    captions: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class CaptionSource(FeatureSource):
    """A cache of regions; its label space is the pool of concepts."""

    cache: EveryBox
    concepts: ConceptTargets
    captions: CaptionEmbeddings
    teacher_part: str
    options: CaptionOptions

    @property
    def parts(self) -> tuple[str, ...]:
        """Of the cache, those that an image must have features in."""
        return tuple(dict.fromkeys((*self.inputs.parts, self.teacher_part)))

    def see(self, image: int, key: int) -> Seen:
        """The whole picture and at most `options.regions` others, drawn by (key, image)."""
        first, stop = self.cache.offsets[image : image + 2].tolist()
        taught = self.concepts.of(np.arange(first, stop))
        regions = np.flatnonzero(~taught.frame)
        if len(regions) > self.options.regions:
            lots = random64(key, _REGIONS, image, regions)
            regions = np.sort(regions[np.argsort(lots)[: self.options.regions]])
        boxes = np.concatenate([regions, np.flatnonzero(taught.frame)[:1]])
        taught = taught.at(boxes)
        return Seen(boxes=boxes, labels=taught.ids[:, 0], taught=(taught, self._caption(image, key)))

    def targets(self, seen: Sequence[Seen]) -> CaptionTargets:
        """Of the images of a batch, in turn."""
        parts = [one.taught for one in seen]
        taught = Teaching(*map(np.concatenate, zip(*(part for part, _ in parts), strict=True)))
        captioned = [part.frame & (len(caption) > 0) for part, caption in parts]
        kept = np.flatnonzero(~taught.frame & (taught.probs[:, 0] > self.options.threshold))
        sure = taught.at(kept)
        frames = np.flatnonzero(np.concatenate(captioned))
        captions = [caption for (_, caption), frame in zip(parts, captioned, strict=True) if frame.any()]
        width = self.text_embeddings.shape[1]
        return CaptionTargets(
            kept=kept,
            ids=sure.ids,
            probs=sure.probs,
            rest=sure.rest,
            frames=frames,
            captions=np.concatenate([np.empty((0, width), np.float32), *captions]),
        )

    def identity(self) -> dict[str, Any]:
        """JSON-able identity of features, targets and losses."""
        return {
            **super().identity(),
            "concepts": dict(self.concepts.identity),
            "captions": dict(self.captions.identity),
            "options": asdict(self.options),
        }

    def _caption(self, image: int, key: int) -> NDArray[np.float32]:
        """float32 [1, E], one of its captions, drawn by (key, image); [0, E] if it has none."""
        images = np.flatnonzero(self.captions.counts[image : image + 1]) + image  # itself, or none
        which = random64(key, _CAPTION, images) % self.captions.counts[images].astype(np.uint64)
        return self.captions.of(images, which.astype(np.int64))
