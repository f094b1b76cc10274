"""The table of boxes: what every method says about every box, as Parquet and CSV, written image by image.

Columns that the table of regions has too are called the same; docs/errors.md explains them.
"""

import csv
import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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

    def __init__(self, dataset: DetectionDataset, parquet: Path, text: Any) -> None:
        """Opens a Parquet file and writes the head of a CSV to `text`."""
        ids = pa.int64() if all(isinstance(i, int) for i in dataset.image_ids) else pa.string()
        image = {"method": pa.string(), "image_id": ids, "file_name": pa.string()}
        self._dataset, self._schema = dataset, pa.schema({**image, **_PLAIN, **_LISTS})
        self._parquet = pq.ParquetWriter(parquet, self._schema, compression="zstd")
        self._csv = csv.writer(text)  # as RFC 4180 asks
        self._csv.writerow(self._schema.names)
        self._batches: list[pa.RecordBatch] = []
        self._waiting = 0

    def add(self, method: str, index: int, answers: BoxAnswers) -> None:
        """Adds the boxes of image `index` as a method names them."""
        columns = self._image(method, index, len(answers)) | self._boxes(index, answers)
        batch = pa.RecordBatch.from_pydict(columns, schema=self._schema)
        texts = [column.to_pylist() for column in batch.columns]
        self._csv.writerows([_cell(value) for value in row] for row in zip(*texts, strict=True))
        self._batches.append(batch)
        self._waiting += len(answers)
        if self._waiting >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Writes what waits, and ends the Parquet file."""
        self._flush()
        self._parquet.close()

    def _flush(self) -> None:
        if self._waiting:
            self._parquet.write_table(pa.Table.from_batches(self._batches, self._schema))
        self._batches, self._waiting = [], 0

    def _image(self, method: str, index: int, rows: int) -> dict[str, list[Any]]:
        image_id = self._dataset.image_ids[index]
        if self._schema.field("image_id").type == pa.string():
            image_id = str(image_id)
        known = {"method": method, "image_id": image_id, "file_name": self._dataset.file_names[index]}
        return {name: [value] * rows for name, value in known.items()}

    def _boxes(self, index: int, answers: BoxAnswers) -> dict[str, Any]:
        names = np.array(self._dataset.class_names, dtype=object)
        met, scores = answers.met, answers.probabilities
        first = int(self._dataset.offsets[index])
        ids = [self._dataset.annotation_ids[first + j].item() if j >= 0 else None for j in met.tolist()]
        given = answers.objectness is None
        second = scores[:, 1] if scores.shape[1] > 1 else np.float32(0)
        top = names[answers.labels]
        corners = dict(zip(("x0", "y0", "x1", "y1"), answers.boxes.T, strict=True))
        return corners | {
            "box_id": ids if given else answers.places,
            "class": [
                self._dataset.class_names[label] if label >= 0 else None for label in answers.truth.tolist()
            ],
            "class_box_id": ids,
            "iou": answers.iou,
            "objectness": [None] * len(answers) if given else answers.objectness,
            "predicted": top[:, 0].tolist(),
            "right": pa.array(answers.labels[:, 0] == answers.truth, mask=met < 0),
            "score": scores[:, 0],
            "margin": scores[:, 0] - second,
            "class_score": pa.array(answers.true_probability, mask=met < 0),
            "top_names": top.tolist(),
            "top_scores": list(scores),
        }


@contextmanager
def box_table(dataset: DetectionDataset, parquet: Path, csv_file: Path) -> Generator[BoxTable]:
    """A table that is written to both files, which appear when the block ends well."""
    with (
        replacing(csv_file) as text_staging,
        replacing(parquet) as staging,
        text_staging.open("w", encoding="utf-8", newline="") as text,
    ):
        table = BoxTable(dataset, staging, text)
        try:
            yield table
        finally:
            table.close()


def _cell(value: Any) -> str | int:
    """A value as CSV has it: nothing for null, yes and no, six decimals, lists as JSON."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return json.dumps(
            [round(one, 6) if isinstance(one, float) else one for one in value], ensure_ascii=False
        )
    return value
