"""A dataset of random boxes, its features as pure functions of the image, and a cache made of them."""

import hashlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from regionspot_cache.store import (
    STATUS_CODES,
    CacheWriter,
    PartitionPlan,
    PartSpec,
    create_cache,
    make_clip_part,
    make_sam_part,
)

TOKENS, WIDTH, TOKEN_DIM, PROMPT_DIM = 5, 12, 8, 16


class BoxPolicy(SimpleNamespace):
    def to_dict(self) -> dict:
        return {"min_size": 1.0, "clip": True}


def make_dataset(
    images: int = 23, *, seed: int = 0, text_ids: bool = False, max_boxes: int = 9
) -> SimpleNamespace:
    """A stand-in for a detection dataset; some images have no box."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, max_boxes, images)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    total = int(offsets[-1])
    corner = rng.uniform(0, 50, (total, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 50, (total, 2))], axis=1)
    ids = (
        [f"{value:08x}é" for value in rng.permutation(images)]
        if text_ids
        else rng.permutation(images).tolist()
    )
    return SimpleNamespace(
        name="boxes",
        split="train",
        image_root=Path("images"),
        annotation_sha256="ab" * 32,
        class_names=("cat", "dog", "owl"),
        category_ids=np.array([1, 5, 7]),
        class_frequency=("f", "c", "r"),
        image_ids=ids,
        file_names=[f"train/{i:06d}.jpg" for i in range(images)],
        widths=rng.integers(100, 200, images).astype(np.int32),
        heights=rng.integers(100, 200, images).astype(np.int32),
        offsets=offsets,
        boxes=boxes.astype(np.float32),
        labels=rng.integers(0, 3, total).astype(np.int32),
        annotation_ids=rng.permutation(total).astype(np.int64),
        dropped=Counter({"crowd": 2}),
        policy=BoxPolicy(),
        exif="ignore",
        views=None,
        augmentation=None,
    )


def sam_part(dtype: str = "int8", model: str = "vit_b") -> PartSpec:
    dims = {"transformer": TOKEN_DIM, "prompt": PROMPT_DIM}
    return make_sam_part(
        dims, dtype=dtype, fingerprint={"model": {"name": model, "sha256": "12"}, "size": 1024}
    )


def clip_part(dtype: str = "int8", model: str = "ViT-L-14") -> PartSpec:
    return make_clip_part(TOKENS, WIDTH, dtype=dtype, fingerprint={"model": {"name": model}, "layer": -2})


def _generator(*key: object) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(repr(key).encode()).digest()))


def map_of(file_name: str) -> np.ndarray:
    """float32 [TOKENS, WIDTH]."""
    return _generator("map", file_name).normal(size=(TOKENS, WIDTH)).astype(np.float32)


def tokens_of(file_name: str, boxes: np.ndarray, dim: int) -> np.ndarray:
    """float32 [n, dim]."""
    return _generator("tokens", file_name, dim).normal(size=(len(boxes), dim)).astype(np.float32)


def features(part: str, plan: PartitionPlan) -> dict[str, np.ndarray]:
    """Unquantised features of a whole partition."""
    if part == "clip":
        return {"map": np.stack([map_of(name) for name in plan.file_names])}
    images = list(zip(plan.file_names, plan.offsets[:-1], plan.offsets[1:], strict=True))
    return {
        position: np.concatenate([tokens_of(name, plan.boxes[a:b], dim) for name, a, b in images])
        for position, dim in (("transformer", TOKEN_DIM), ("prompt", PROMPT_DIM))
    }


def status_of(plan: PartitionPlan, failing: dict[str, str]) -> np.ndarray:
    """uint8 [s]; `failing` maps file names to reasons."""
    return np.array([STATUS_CODES[failing.get(name, "ok")] for name in plan.file_names], np.uint8)


def extract(
    writer: CacheWriter, *, failing: dict[str, str] | None = None, parts: tuple[str, ...] = ()
) -> None:
    """Commit everything that is pending and seal."""
    for part in parts or tuple(writer.parts):
        for partition in writer.pending(part):
            plan = writer.partition(partition)
            status = status_of(plan, failing or {})
            writer.commit(part, partition, features(part, plan), status, timings={"write": 0.1})
    writer.seal()


def make_cache(
    path: Path, dataset: SimpleNamespace | None = None, *, dtype: str = "int8", **kwargs
) -> CacheWriter:
    """A sealed cache of partitions of 4 images."""
    parts = [sam_part(dtype), clip_part(dtype)]
    writer = create_cache(path, dataset or make_dataset(), partition_size=4, parts=parts)
    extract(writer, **kwargs)
    return writer


def file_hashes(path: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative name."""
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
