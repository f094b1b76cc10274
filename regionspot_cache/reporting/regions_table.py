"""The table of regions: a row a box, with its place, its names, its embedding and its neighbours, as Arrow.

Written as Parquet it opens in pandas, Lance, DuckDB and Embedding Atlas as it is; docs/export.md explains
the columns.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.errors import InputError
from regionspot_cache.files import replacing

METADATA_KEY = b"regionspot-cache"
ROW_GROUP = 65_536


@dataclass(frozen=True, kw_only=True)
class RankedNames:
    """What a method calls each of N boxes, best first.

    Attributes:
        classes: the K names that were asked for.
        labels: int32 [N, k], indices into `classes`.
        scores: float32 [N, k], probabilities among the K classes, falling.
    """

    classes: Sequence[str]
    labels: NDArray[np.int32]
    scores: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class EmbeddedRegions:
    """Some boxes of a dataset with what is known of each; N is their number.

    Attributes:
        images: int64 [N], index of the image in the dataset.
        boxes: int64 [N], row of the box in the dataset's `boxes`.
        labelled: bool [N], whether the dataset's label is a class; False for boxes without one.
        embeddings: unit vectors, float32 [N, E].
        named: None where nothing was recognised.
        places: float32 [N, 2], coordinates of the map.
        neighbours: rows int64 [N, k] and cosine distances float32 [N, k].
        novelty: float32 [N].
    """

    dataset: DetectionDataset
    images: NDArray[np.int64]
    boxes: NDArray[np.int64]
    labelled: NDArray[np.bool_]
    embeddings: NDArray[np.float32]
    named: RankedNames | None
    places: NDArray[np.float32]
    neighbours: tuple[NDArray[np.int64], NDArray[np.float32]]
    novelty: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.boxes)


def region_table(regions: EmbeddedRegions, metadata: Mapping[str, Any]) -> pa.Table:
    """The regions as an Arrow table, a row a box in their order.

    Args:
        regions: what is known of them.
        metadata: what all was made from, json-able; kept in the schema, see `table_metadata`.
    """
    dataset, images = regions.dataset, regions.images
    corners = dataset.boxes[regions.boxes]
    columns: dict[str, Any] = {
        "image_id": _ids([dataset.image_ids[i] for i in images.tolist()]),
        "file_name": pa.array([dataset.file_names[i] for i in images.tolist()], pa.string()),
        "width": pa.array(dataset.widths[images], pa.int32()),
        "height": pa.array(dataset.heights[images], pa.int32()),
        "box_id": pa.array(dataset.annotation_ids[regions.boxes], pa.int64()),
        **{name: pa.array(corners[:, i], pa.float32()) for i, name in enumerate(("x0", "y0", "x1", "y1"))},
        "class": _classes(regions),
        **_named(regions.named, len(regions)),
        "embedding": _fixed(regions.embeddings),
        "x": pa.array(regions.places[:, 0], pa.float32()),
        "y": pa.array(regions.places[:, 1], pa.float32()),
        "neighbours": _neighbours(*regions.neighbours),
        "novelty": pa.array(regions.novelty, pa.float32()),
    }
    return pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(dict(metadata)).encode()})


def write_regions(table: pa.Table, path: Path) -> None:
    """Writes the table as one Parquet file, which appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as staging:
        pq.write_table(table, staging, compression="zstd", row_group_size=ROW_GROUP)


def table_metadata(table: pa.Table) -> dict[str, Any]:
    """What the table was made from. InputError: it is no table of regions."""
    found = (table.schema.metadata or {}).get(METADATA_KEY)
    if found is None:
        raise InputError("The table does not say what it was made from.", "One of rs-cache export.")
    return json.loads(found)


def _ids(values: list[int | str]) -> pa.Array:
    """Numbers where all are, else texts: a column has one type."""
    if all(isinstance(value, int) for value in values):
        return pa.array(values, pa.int64())
    return pa.array(list(map(str, values)), pa.string())


def _classes(regions: EmbeddedRegions) -> pa.Array:
    names, labels = regions.dataset.class_names, regions.dataset.labels[regions.boxes].tolist()
    known = zip(labels, regions.labelled.tolist(), strict=True)
    return pa.array([names[label] if labelled else None for label, labelled in known], pa.string())


def _named(named: RankedNames | None, total: int) -> dict[str, pa.Array]:
    """Columns of what a method says; null where none was asked."""
    if named is None:
        lists = {"top_names": pa.list_(pa.string()), "top_scores": pa.list_(pa.float32())}
        plain = {"predicted": pa.string(), "score": pa.float32(), "margin": pa.float32()}
        return {name: pa.nulls(total, kind) for name, kind in (plain | lists).items()}
    classes = np.array(named.classes, dtype=object)
    names, scores = classes[named.labels], named.scores
    second = scores[:, 1] if scores.shape[1] > 1 else np.zeros(total, np.float32)
    return {
        "predicted": pa.array(names[:, 0].tolist(), pa.string()),
        "score": pa.array(scores[:, 0], pa.float32()),
        "margin": pa.array(scores[:, 0] - second, pa.float32()),
        "top_names": _lists(pa.array(names.ravel().tolist(), pa.string()), names.shape),
        "top_scores": _lists(pa.array(scores.ravel(), pa.float32()), scores.shape),
    }


def _neighbours(rows: NDArray[np.int64], distances: NDArray[np.float32]) -> pa.Array:
    """As Embedding Atlas reads them: {ids: [row, ...], distances: [number, ...]}."""
    ids = _lists(pa.array(rows.ravel(), pa.int64()), rows.shape)
    return pa.StructArray.from_arrays(
        [ids, _lists(pa.array(distances.ravel(), pa.float32()), distances.shape)], ["ids", "distances"]
    )


def _lists(values: pa.Array, shape: tuple[int, ...]) -> pa.Array:
    offsets = pa.array(np.arange(shape[0] + 1) * shape[1], pa.int32())
    return pa.ListArray.from_arrays(offsets, values)


def _fixed(vectors: NDArray[np.float32]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(vectors).ravel(), pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
