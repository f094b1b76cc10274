"""The table of boxes: what every method says about every box, as Parquet and CSV, written image by image.

Columns that the table of regions has too are called the same; docs/errors.md explains them.
"""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.csv import CSVWriter

from regionspot_cache.datasets.records import DetectionDataset
from regionspot_cache.evaluation.answers import BoxAnswers
from regionspot_cache.files import replacing

ROW_GROUP = 65_536  # rows, so much is held in memory
_PLAIN = {
    "box_id": pa.int64(),
    **dict.fromkeys(("x0", "y0", "x1", "y1"), pa.float32()),
    "class": pa.string(),
    "class_box_id": pa.int64(),
    "iou": pa.float32(),
    "objectness": pa.float32(),
    "predicted": pa.string(),
    "right": pa.bool_(),
    "score": pa.float32(),
    "margin": pa.float32(),
    "class_score": pa.float32(),
}
_LISTS = {"top_names": pa.list_(pa.string()), "top_scores": pa.list_(pa.float32())}


class BoxTable:
    """Takes the answers of one image after the other; made by `box_table`."""

    def __init__(self, dataset: DetectionDataset, parquet: Path, text: Path) -> None:
        """Opens both files, and writes what they begin with."""
        self._dataset = dataset
        self._numbered = all(isinstance(i, int) for i in dataset.image_ids)
        ids = pa.int64() if self._numbered else pa.string()
        image = {"method": pa.string(), "image_id": ids, "file_name": pa.string()}
        self._schema = pa.schema({**image, **_PLAIN, **_LISTS})
        self._names = pa.array(dataset.class_names, pa.string())
        self._as_json = pa.array([json.dumps(name, ensure_ascii=False) for name in dataset.class_names])
        self._parquet = pq.ParquetWriter(parquet, self._schema, compression="zstd")
        texts = [pa.field(one.name, pa.string()) if one.name in _LISTS else one for one in self._schema]
        self._csv = CSVWriter(text, pa.schema(texts))
        self._parts: list[tuple[str, int, BoxAnswers]] = []
        self._waiting = 0

    def add(self, method: str, index: int, answers: BoxAnswers) -> None:
        """Adds the boxes of image `index` as a method names them."""
        self._parts.append((method, index, answers))
        self._waiting += len(answers)
        if self._waiting >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Writes what waits, and ends both files."""
        self._flush()
        self._parquet.close()
        self._csv.close()

    def _flush(self) -> None:
        if not self._waiting:
            return
        labels = _joined(self._parts, "labels")
        columns = self._images() | self._plain(labels)
        scores = pa.array(_joined(self._parts, "probabilities").ravel(), pa.float32())
        names = {"top_names": self._names.take(pa.array(labels.ravel())), "top_scores": scores}
        lists = {name: _lists(flat, labels.shape) for name, flat in names.items()}
        self._parquet.write_table(pa.table(columns | lists, self._schema))
        flat_texts = (self._as_json.take(pa.array(labels.ravel())), scores.cast(pa.string()))
        texts = [_json_lists(_lists(flat, labels.shape)) for flat in flat_texts]
        self._csv.write_table(pa.table(columns | dict(zip(_LISTS, texts, strict=True))))
        self._parts, self._waiting = [], 0

    def _images(self) -> dict[str, pa.Array]:
        """What all boxes of an image share."""
        counts = pa.array(np.repeat(np.arange(len(self._parts)), [len(part[2]) for part in self._parts]))
        ids = [self._dataset.image_ids[index] for _, index, _ in self._parts]
        values = {
            "method": [method for method, _, _ in self._parts],
            "image_id": ids if self._numbered else list(map(str, ids)),
            "file_name": [self._dataset.file_names[index] for _, index, _ in self._parts],
        }
        return {
            name: pa.array(each, self._schema.field(name).type).take(counts) for name, each in values.items()
        }

    def _plain(self, labels: NDArray[np.int32]) -> dict[str, pa.Array]:
        """The columns with one value a box."""
        given = self._parts[0][2].objectness is None
        met, truth, scores = (_joined(self._parts, name) for name in ("met", "truth", "probabilities"))
        first = np.repeat(
            [self._dataset.offsets[index] for _, index, _ in self._parts],
            [len(answers) for _, _, answers in self._parts],
        )
        nothing = met < 0
        ids = pa.array(self._dataset.annotation_ids[np.where(nothing, 0, first + met)], mask=nothing)
        second = scores[:, 1] if scores.shape[1] > 1 else np.float32(0)
        corners = _joined(self._parts, "boxes").astype(np.float32)
        return {
            "box_id": ids if given else pa.array(_joined(self._parts, "places")),
            **{name: pa.array(corners[:, i]) for i, name in enumerate(("x0", "y0", "x1", "y1"))},
            "class": self._names.take(pa.array(truth, mask=nothing)),
            "class_box_id": ids,
            "iou": pa.array(_joined(self._parts, "iou")),
            "objectness": pa.nulls(len(met), pa.float32())
            if given
            else pa.array(_joined(self._parts, "objectness")),
            "predicted": self._names.take(pa.array(labels[:, 0])),
            "right": pa.array(labels[:, 0] == truth, mask=nothing),
            "score": pa.array(scores[:, 0]),
            "margin": pa.array(scores[:, 0] - second),
            "class_score": pa.array(_joined(self._parts, "true_probability"), mask=nothing),
        }


def _joined(parts: Sequence[tuple[str, int, BoxAnswers]], name: str) -> NDArray[Any]:
    return np.concatenate([getattr(answers, name) for _, _, answers in parts])


def _lists(flat: pa.Array, shape: tuple[int, ...]) -> pa.Array:
    offsets = pa.array(np.arange(shape[0] + 1) * shape[1], pa.int32())
    return pa.ListArray.from_arrays(offsets, flat)


def _json_lists(texts: pa.Array) -> pa.Array:
    """Lists of JSON texts as JSON arrays."""
    joined = pc.call_function("binary_join", [texts, pa.scalar(", ")])
    return pc.call_function(
        "binary_join_element_wise", [pa.scalar("["), joined, pa.scalar("]"), pa.scalar("")]
    )


@contextmanager
def box_table(dataset: DetectionDataset, parquet: Path, csv: Path) -> Generator[BoxTable]:
    """A table that is written to both files, which appear when the block ends well."""
    with replacing(parquet) as staging, replacing(csv) as text:
        table = BoxTable(dataset, staging, text)
        try:
            yield table
        finally:
            table.close()
