"""Caches of random features: what is stored has no influence on how fast it is read."""

from pathlib import Path
from typing import Literal

import numpy as np

from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.store import (
    STATUS_OK,
    ArraySpec,
    Cache,
    HalfSpec,
    PartitionPlan,
    Quantised,
    create_cache,
    make_clip_half,
    make_sam_half,
    open_cache,
)

MapDtype = Literal["int8", "float16"]
SIDE = 640  # pixels


def random_cache(
    path: Path,
    *,
    images: int,
    map_shape: tuple[int, int],
    dtype: MapDtype = "int8",
    token_dim: int | None = None,
    boxes: int = 1,
    classes: int = 1,
    partition_size: int = 256,
) -> Cache:
    """A sealed cache of random features.

    Args:
        map_shape: (tokens, channels) of a CLIP map.
        token_dim: width of SAM tokens; None makes no SAM half.
        boxes: of every image.
    """
    halves = [make_clip_half(*map_shape, dtype=dtype, fingerprint={"random": "map"})]
    if token_dim is not None:
        halves.append(make_sam_half({"transformer": token_dim}, dtype=dtype, fingerprint={"random": "sam"}))
    dataset = _dataset(path.parent, images, boxes, classes)
    writer = create_cache(path, dataset, halves=halves, partition_size=partition_size)
    for half in halves:
        for p in writer.pending(half.name):
            part = writer.partition(p)
            status = np.full(part.num_images, STATUS_OK, np.uint8)
            writer.commit(half.name, p, _features(half, part), status)
    writer.seal()
    return open_cache(path, halves=tuple(half.name for half in halves))


def _dataset(root: Path, images: int, boxes: int, classes: int) -> DetectionDataset:
    count = images * boxes
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, SIDE / 2, (count, 2))
    return DetectionDataset(
        name="random",
        split="",
        format="coco",
        image_root=root,
        annotation_files=(),
        annotation_sha256="0" * 64,
        class_names=tuple(f"class {c}" for c in range(classes)),
        category_ids=np.arange(1, classes + 1),
        class_frequency=("f",) * classes,
        class_novel=(False,) * classes,
        image_ids=list(range(images)),
        file_names=[f"{i}.jpg" for i in range(images)],
        widths=np.full(images, SIDE, np.int32),
        heights=np.full(images, SIDE, np.int32),
        offsets=np.arange(0, count + 1, boxes, dtype=np.int64),
        boxes=np.concatenate([corners, corners + SIDE / 4], axis=1).astype(np.float32),
        labels=rng.integers(0, classes, count).astype(np.int32),
        annotation_ids=np.arange(count),
        crowd=np.zeros(count, bool),
    )


def _features(half: HalfSpec, part: PartitionPlan) -> dict[str, np.ndarray | Quantised]:
    rng = np.random.default_rng((part.index, half.name == "clip"))
    return {
        array.name: _rows(rng, part.num_boxes if array.ragged else part.num_images, array)
        for array in half.arrays
    }


def _rows(rng: np.random.Generator, count: int, array: ArraySpec) -> np.ndarray | Quantised:
    shape = (count, *array.item_shape)
    values = rng.integers(-127, 128, shape, np.int8)
    if array.dtype == "float16":
        return values.astype(np.float16) / np.float16(64)
    return Quantised(values, np.full(shape[:-1], 1 / 64, np.float16))
