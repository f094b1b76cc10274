"""Caches of random features: what is stored has no influence on how fast it is read."""

import json
from pathlib import Path

import numpy as np

from regionspot_cache.datasets import DetectionDataset, load_dataset
from regionspot_cache.store import (
    STATUS_OK,
    ArraySpec,
    LabelledCache,
    PartSpec,
    StorageName,
    Stored,
    create_cache,
    open_cache,
)

SIDE = 640  # pixels
QUERY, MAP = "sam/transformer", "clip/map"


def random_cache(
    path: Path,
    *,
    images: int,
    map_shape: tuple[int, int],
    dtype: StorageName = "int8",
    token_dim: int | None = None,
    boxes: int = 1,
    classes: int = 1,
    partition_size: int = 256,
    grid: tuple[int, int] | None = None,
) -> LabelledCache:
    """A sealed cache of random features, with its dataset; without SAM where `token_dim` is None.

    Args:
        map_shape: (tokens, channels) of a CLIP map; `grid` is of its patches.
        boxes: of every image.
    """
    feature = ArraySpec(name="map", dtype=dtype, item_shape=map_shape, ragged=False, grid=grid)
    parts = [PartSpec(name="clip", arrays=(feature,), fingerprint={"random": "map"})]
    if token_dim is not None:
        token = ArraySpec(name="transformer", dtype=dtype, item_shape=(token_dim,), ragged=True)
        parts.append(PartSpec(name="sam", arrays=(token,), fingerprint={"random": "sam"}))
    dataset = _dataset(path.with_suffix(".json"), images, boxes, classes)
    writer = create_cache(path, dataset, parts=parts, partition_size=partition_size)
    rng = np.random.default_rng(0)
    for p in range(writer.num_partitions):
        planned = writer.partition(p)
        status = np.full(planned.num_images, STATUS_OK, np.uint8)
        for part in parts:
            counts = {a: planned.num_boxes if a.ragged else planned.num_images for a in part.arrays}
            writer.commit(part.name, p, {a.name: _values(rng, n, a) for a, n in counts.items()}, status)
    writer.seal()
    return LabelledCache(open_cache(path, parts=tuple(part.name for part in parts)), dataset)


def _dataset(file: Path, images: int, boxes: int, classes: int) -> DetectionDataset:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, SIDE / 2, (images * boxes, 2)).tolist()
    labels = rng.integers(1, classes + 1, images * boxes).tolist()
    size = {"width": SIDE, "height": SIDE}
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", **size} for i in range(images)],
        "annotations": [
            {"id": n, "image_id": n // boxes, "category_id": label, "bbox": [x, y, SIDE / 4, SIDE / 4]}
            for n, ((x, y), label) in enumerate(zip(corners, labels, strict=True))
        ],
        "categories": [{"id": c + 1, "name": f"class {c}"} for c in range(classes)],
    }
    file.write_text(json.dumps(content))
    return load_dataset(str(file), data_root=file.parent, images=file.parent, require_images=False)


def _values(rng: np.random.Generator, count: int, array: ArraySpec) -> Stored:
    values = rng.integers(-127, 128, (count, *array.item_shape), np.int8)
    return array.storage.encode(values / np.float32(64))
