"""A dataset of random boxes, its features as pure functions of the image, and a cache made of them."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np

from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.store import (
    STATUS_CODES,
    ArraySpec,
    CacheWriter,
    LabelledCache,
    PartitionPlan,
    PartSpec,
    StorageName,
    create_cache,
    open_cache,
)

TOKENS, WIDTH, TOKEN_DIM, PROMPT_DIM = 5, 12, 8, 16


def make_dataset(
    images: int = 23, *, seed: int = 0, text_ids: bool = False, max_boxes: int = 9
) -> DetectionDataset:
    """Images without files, three classes; some images have no box."""
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
    return DetectionDataset(
        name="boxes",
        split="train",
        format="coco",
        image_root=Path("images"),
        annotation_files=(),
        annotation_sha256="ab" * 32,
        class_names=("cat", "dog", "owl"),
        category_ids=np.array([1, 5, 7]),
        class_frequency=("f", "c", "r"),
        class_novel=(False,) * 3,
        image_ids=ids,
        file_names=[f"train/{i:06d}.jpg" for i in range(images)],
        widths=rng.integers(100, 200, images).astype(np.int32),
        heights=rng.integers(100, 200, images).astype(np.int32),
        offsets=offsets,
        boxes=boxes.astype(np.float32),
        labels=rng.integers(0, 3, total).astype(np.int32),
        annotation_ids=rng.permutation(total).astype(np.int64),
        crowd=np.zeros(total, bool),
        dropped=Counter({"crowd": 2}),
    )


def box_array(name: str, dim: int, dtype: StorageName = "int8") -> ArraySpec:
    """One vector a box."""
    return ArraySpec(name=name, dtype=dtype, item_shape=(dim,), ragged=True)


def map_array(
    name: str = "map", tokens: int = TOKENS, width: int = WIDTH, dtype: StorageName = "int8"
) -> ArraySpec:
    """One map an image."""
    return ArraySpec(name=name, dtype=dtype, item_shape=(tokens, width), ragged=False)


def sam_part(dtype: StorageName = "int8", model: str = "vit_b") -> PartSpec:
    """Two arrays by box: transformer and prompt."""
    arrays = (box_array("transformer", TOKEN_DIM, dtype), box_array("prompt", PROMPT_DIM, dtype))
    fingerprint = {"model": {"name": model, "sha256": "12"}, "size": 1024}
    return PartSpec(name="sam", arrays=arrays, fingerprint=fingerprint)


def clip_part(dtype: StorageName = "int8", model: str = "ViT-L-14") -> PartSpec:
    """One array by image: map."""
    fingerprint = {"model": {"name": model}, "layer": -2}
    return PartSpec(name="clip", arrays=(map_array(dtype=dtype),), fingerprint=fingerprint)


def _generator(*key: object) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(repr(key).encode()).digest()))


def map_of(file_name: str) -> np.ndarray:
    """float32 [TOKENS, WIDTH]."""
    return record_of("clip/map", file_name, (TOKENS, WIDTH))


def tokens_of(file_name: str, boxes: np.ndarray, dim: int, array: str = "sam/transformer") -> np.ndarray:
    """float32 [n, dim]; that of a box depends on the box alone, not on its place."""
    rows = [record_of(array, f"{file_name} {box.tolist()}", (dim,)) for box in boxes]
    return np.stack(rows) if rows else np.empty((0, dim), np.float32)


def record_of(array: str, subject: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 [*shape], a record of PART/ARRAY."""
    return _generator(array, subject).normal(size=shape).astype(np.float32)


def features(part: str | PartSpec, plan: PartitionPlan) -> dict[str, np.ndarray]:
    """Unquantised features of a whole partition in a part, or in "sam" or "clip" of `make_cache`."""
    spec = {"sam": sam_part, "clip": clip_part}[part]() if isinstance(part, str) else part
    return {array.name: _features(f"{spec.name}/{array.name}", array, plan) for array in spec.arrays}


def _features(path: str, array: ArraySpec, plan: PartitionPlan) -> np.ndarray:
    if not array.ragged:
        return np.stack([record_of(path, name, array.item_shape) for name in plan.file_names])
    images = list(zip(plan.file_names, plan.offsets[:-1], plan.offsets[1:], strict=True))
    (dim,) = array.item_shape
    return np.concatenate([tokens_of(name, plan.boxes[a:b], dim, path) for name, a, b in images])


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
            arrays = features(writer.parts[part], plan)
            writer.commit(part, partition, arrays, status, files=stamps_of(plan), timings={"write": 0.1})
    writer.seal()


def stamps_of(plan: PartitionPlan) -> np.ndarray:
    """int64 [s, 3], stamps as of files that are not there."""
    stamps = [_generator("stamp", name).integers(1, 2**62, 3) for name in plan.file_names]
    return np.array(stamps, np.int64).reshape(-1, 3)


def make_cache(
    path: Path,
    dataset: DetectionDataset | None = None,
    *,
    dtype: StorageName = "int8",
    failing: dict[str, str] | None = None,
) -> CacheWriter:
    """A sealed cache of partitions of 4 images."""
    parts = [sam_part(dtype), clip_part(dtype)]
    writer = create_cache(path, dataset or make_dataset(), partition_size=4, parts=parts)
    extract(writer, failing=failing)
    return writer


def open_labelled(path: Path, dataset: DetectionDataset | None = None, **options) -> LabelledCache:
    """The cache with the labels of the dataset that `make_cache` makes by default."""
    return LabelledCache(open_cache(path, **options), dataset or make_dataset())


def file_hashes(path: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative name."""
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
