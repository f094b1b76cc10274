"""The table of boxes: Parquet and CSV say the same, in blocks, whole or not at all."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from regionspot_cache.datasets.records import DetectionDataset
from regionspot_cache.evaluation import box_table as module
from regionspot_cache.evaluation.answers import BoxAnswers, answers_of
from tests.store.small_world import make_dataset

NAMES = ('cat, "wild"', "dog", "Eule ü")


def answers(dataset: DetectionDataset, index: int, *, given: bool, seed: int = 0) -> BoxAnswers:
    record = dataset[index]
    probabilities = np.random.default_rng([seed, index]).dirichlet(np.ones(3), len(record.boxes))
    boxes = record.boxes if given else record.boxes + np.float32(2)
    objectness = None if given else np.linspace(1, 0.5, len(boxes), dtype=np.float32)
    return answers_of(record, boxes, probabilities.astype(np.float32), objectness=objectness, top=2)


def written(folder: Path, dataset: DetectionDataset, *, given: bool) -> tuple[list[dict[str, Any]], list]:
    with module.box_table(dataset, folder / "boxes.parquet", folder / "boxes.csv") as table:
        for index in range(len(dataset)):
            for seed, method in enumerate(("a", "b")):
                table.add(method, index, answers(dataset, index, given=given, seed=seed))
    with (folder / "boxes.csv").open(encoding="utf-8", newline="") as file:
        texts = list(csv.DictReader(file, strict=True))
    return pq.read_table(folder / "boxes.parquet").to_pylist(), texts


@pytest.mark.parametrize("text_ids", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_both_files_say_what_the_answers_say(
    given: bool, text_ids: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROW_GROUP", 7)
    dataset = replace(make_dataset(12, text_ids=text_ids), class_names=NAMES)
    rows, texts = written(tmp_path, dataset, given=given)
    assert pq.ParquetFile(tmp_path / "boxes.parquet").num_row_groups > 2
    assert len(rows) == len(texts) == 2 * len(dataset.boxes)
    at = iter(zip(rows, texts, strict=True))
    for index in range(len(dataset)):
        record = dataset[index]
        for seed, method in enumerate(("a", "b")):
            found = answers(dataset, index, given=given, seed=seed)
            for i in range(len(found)):
                row, text = next(at)
                met = int(found.met[i])
                own = None if met < 0 else int(record.annotation_ids[met])
                expected = {
                    "method": method,
                    "image_id": record.image_id,
                    "file_name": record.file_name,
                    "box_id": own if given else i,
                    **dict(zip(("x0", "y0", "x1", "y1"), found.boxes[i].tolist(), strict=True)),
                    "class": None if met < 0 else NAMES[record.labels[met]],
                    "class_box_id": own,
                    "iou": found.iou[i],
                    "objectness": None if found.objectness is None else found.objectness[i],
                    "predicted": NAMES[found.labels[i, 0]],
                    "right": None if met < 0 else bool(found.labels[i, 0] == record.labels[met]),
                    "score": found.probabilities[i, 0],
                    "margin": found.probabilities[i, 0] - found.probabilities[i, 1],
                    "class_score": None if met < 0 else found.true_probability[i],
                    "top_names": [NAMES[label] for label in found.labels[i]],
                    "top_scores": found.probabilities[i].tolist(),
                }
                assert row == expected
                assert list(text) == list(row)
                for name, value in row.items():
                    assert_same(text[name], value)


def assert_same(text: str, value: Any) -> None:
    """A cell of the CSV has the value of Parquet."""
    match value:
        case None:
            assert text == ""
        case bool():
            assert text == str(value).lower()
        case float():
            assert float(text) == pytest.approx(value, rel=1e-6)
        case [str(), *_]:
            assert json.loads(text) == value
        case [*_]:
            assert json.loads(text) == pytest.approx(value, rel=1e-6)
        case _:
            assert text == str(value)


def test_a_pass_that_fails_leaves_no_file(tmp_path: Path) -> None:
    dataset = make_dataset(3)
    wrong = replace(answers(dataset, 0, given=True), labels=np.zeros((1, 2), np.int32))
    with (
        pytest.raises(ValueError, match="length"),
        module.box_table(dataset, tmp_path / "b.parquet", tmp_path / "b.csv") as table,
    ):
        table.add("a", 0, wrong)
    assert list(tmp_path.iterdir()) == []


def test_no_boxes_make_empty_files(tmp_path: Path) -> None:
    dataset = make_dataset(3)
    with module.box_table(dataset, tmp_path / "b.parquet", tmp_path / "b.csv"):
        pass
    assert pq.read_table(tmp_path / "b.parquet").num_rows == 0
    assert (tmp_path / "b.csv").read_text().startswith('"method","image_id"')
