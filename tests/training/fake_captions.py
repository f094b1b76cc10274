"""A cache of regions that a teacher and captions describe, made up as `fake.FakeCache` is."""

from typing import Any

import numpy as np

from regionspot_cache.training.caption_source import CaptionSource, EveryBox
from regionspot_cache.training.config import CaptionOptions
from regionspot_cache.training.derived import PartitionedRows
from regionspot_cache.training.targets import CaptionEmbeddings, ConceptTargets
from tests.training.fake import TEXT_DIM, FakeCache, make_source

CONCEPTS, K = 9, 3


class RegionCache(FakeCache):
    """Whose boxes are read without labels."""

    def read(self, path: str, image: int) -> np.ndarray:
        return self.queries(path, image)


def make_caption_source(
    name: str = "captioned", cache: Any = None, options: CaptionOptions | None = None, **changes: Any
) -> CaptionSource:
    """The last box of every image is the whole of it; image i has i % 3 captions."""
    cache = cache or RegionCache(seed=3)
    random = np.random.default_rng(1)

    def units(rows: int) -> np.ndarray:
        vectors = random.normal(size=(rows, TEXT_DIM)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    counts = np.arange(cache.num_images) % 3
    embedded = PartitionedRows([units(int(counts.sum())).astype(np.float16)])
    values = {
        "name": name,
        "cache": EveryBox(cache),
        "inputs": make_source(cache=cache).inputs,
        "class_names": tuple(f"concept {i}" for i in range(CONCEPTS)),
        "text_embeddings": units(CONCEPTS),
        "concepts": ConceptTargets(PartitionedRows([taught_rows(cache)]), CONCEPTS, {"seed": cache.seed}),
        "captions": CaptionEmbeddings(embedded, counts, {"of": "fake"}),
        "teacher_part": "sam",
        "options": options or CaptionOptions(temperature=0.1, threshold=0.3, regions=2),
    }
    return CaptionSource(**(values | changes))


def taught_rows(cache: FakeCache) -> np.ndarray:
    """Structured rows as `targets.concept_targets` makes them."""
    random = np.random.default_rng(cache.seed)
    boxes = int(cache.offsets[-1])
    rows = np.empty(boxes, [("ids", "<i4", K), ("probs", "<f2", K), ("rest", "<f2"), ("frame", "?")])
    odds = random.dirichlet(np.ones(CONCEPTS), boxes)
    rows["ids"] = np.argsort(-odds, axis=1)[:, :K]
    rows["probs"] = -np.sort(-odds, axis=1)[:, :K]
    rows["rest"] = 1 - rows["probs"].astype(np.float64).sum(1)
    rows["frame"] = False
    rows["frame"][cache.offsets[1:][cache.counts > 0] - 1] = True
    return rows
