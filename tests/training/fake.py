"""An in-memory cache with the interface of a labelled one, and a run small enough for tests."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from regionspot_cache.backbones.presets import HeadInputs
from regionspot_cache.errors import InputError
from regionspot_cache.store import STORAGE, ArraySpec, PartSpec, StorageName, Stored
from regionspot_cache.training import Stage, TrainConfig, TrainingSource
from regionspot_cache.training.head_config import HeadOptions

TOKEN_DIM, MAP_TOKENS, MAP_DIM, TEXT_DIM = 6, 5, 8, 7
GRID = (2, 2)
QUERY, MAP = "sam/transformer", "clip/map"


@dataclass
class FakeCache:
    """Random features that are a function of the seed, stored as `dtype`.

    It is labelled, and it is the cache that a labelled one reads from.
    """

    num_images: int = 24
    partition_size: int = 5
    classes: int = 4
    seed: int = 0
    dtype: StorageName = "int8"
    backbone: str = "tiny"
    precision: str = "fp32"  # of the networks
    grid: tuple[int, int] | None = GRID
    empty: frozenset[int] = frozenset()
    bad: dict[str, set[int]] = field(default_factory=dict)
    unreadable: frozenset[int] = frozenset()
    reads: list[int] = field(default_factory=list)
    views: np.ndarray | None = None
    origins: np.ndarray | None = None

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        self.lock = threading.Lock()
        self.counts = random.integers(1, 5, self.num_images)
        self.counts[list(self.empty)] = 0
        self.all_labels = [random.integers(0, self.classes, n).astype(np.int32) for n in self.counts]
        self.tokens = [random.normal(size=(n, TOKEN_DIM)).astype(np.float32) for n in self.counts]
        shape = (self.num_images, MAP_TOKENS, MAP_DIM)
        if self.dtype == "int8":
            values = random.integers(-127, 128, shape).astype(np.int8)
            self.maps = Stored(values, random.uniform(0.005, 0.02, shape[:2]).astype(np.float16))
        else:
            self.maps = STORAGE[self.dtype].encode(random.normal(size=shape))
        names = tuple(f"class {i}" for i in range(self.classes))
        self.dataset = SimpleNamespace(name="fake", class_names=names, annotation_sha256=f"a{self.seed}")
        self.augmentation: dict[str, object] | None = None
        self.left_out: Counter[str] = Counter()
        self.arrays = {
            QUERY: ArraySpec(name="transformer", dtype=self.dtype, item_shape=(TOKEN_DIM,), ragged=True),
            MAP: ArraySpec(
                name="map", dtype=self.dtype, item_shape=(MAP_TOKENS, MAP_DIM), ragged=False, grid=self.grid
            ),
        }
        self.parts = {
            path.partition("/")[0]: PartSpec(
                name=path.partition("/")[0],
                arrays=(array,),
                fingerprint={
                    "model": f"{path.partition('/')[0]} {self.backbone}",
                    "precision": self.precision,
                },
            )
            for path, array in self.arrays.items()
        }

    @property
    def offsets(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.counts)])

    def ok_mask(self, part: str) -> np.ndarray:
        return ~np.isin(np.arange(self.num_images), list(self.bad.get(part, ())))

    def labels(self, image: int) -> np.ndarray:
        return self.all_labels[image]

    @property
    def cache(self) -> "FakeCache":
        return self

    def array(self, path: str) -> ArraySpec:
        if path not in self.arrays:
            raise InputError(f"the cache has no array {path}")
        return self.arrays[path]

    def queries(self, path: str, image: int) -> np.ndarray:
        assert path == QUERY
        return self.tokens[image]

    def raw_images(self, path: str, images: Sequence[int]) -> Stored:
        assert path == MAP
        with self.lock:
            self.reads.extend(images)
        if hurt := self.unreadable & set(images):
            raise OSError(5, f"bad sector under image {min(hurt)}")
        return self.maps.take(np.array(images, np.int64))


def make_source(name: str = "fake", cache: FakeCache | None = None, **changes: object) -> TrainingSource:
    cache = cache or FakeCache()
    classes = len(cache.dataset.class_names)
    text = np.random.default_rng(classes).normal(size=(classes, TEXT_DIM)).astype(np.float32)
    values = {
        "name": name,
        "cache": cache,
        "class_names": cache.dataset.class_names,
        "text_embeddings": text / np.linalg.norm(text, axis=1, keepdims=True),
        "class_map": np.arange(classes),
        "inputs": HeadInputs(),
        "text_identity": {"templates": "single"},
    }
    return TrainingSource(**(values | changes))


def make_config(steps: int = 12, **changes: object) -> TrainConfig:
    milestones = (8,) if steps > 8 else ()
    stage = Stage(steps=steps, learning_rate=3e-3, warmup_steps=min(3, steps - 1), milestones=milestones)
    head = HeadOptions(depth=2, num_heads=2, ffn_dim=16, dropout=0.2)
    values = {"head": head, "stages": (stage,), "batch_size": 4, "log_every": 5, "reader_threads": 2}
    return TrainConfig(**(values | {"precision": "fp32"} | changes))
