import json
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.errors import InputError, MissingFileError
from regionspot_cache.evaluation import Detections, evaluate, read_results, write_results
from regionspot_cache.evaluation.reference import load_lvis_api
from tests.evaluation.synthetic import Problem, annotations, detections


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_written_file_scores_the_same_everywhere(tmp_path: Path, kind: str) -> None:
    """Our evaluator on memory and file, and the lvis package reading the same files."""
    rng = np.random.default_rng(0)
    truth = annotations(rng, Problem())
    found = detections(rng, Problem(), truth)
    write_results(tmp_path / "dt.json", found, kind)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    ours = evaluate(found, truth, iou_types=[kind])[kind].metrics
    read = evaluate(read_results(tmp_path / "dt.json").detections, truth, iou_types=[kind])[kind].metrics
    lvis = load_lvis_api().LVISEval(str(tmp_path / "gt.json"), str(tmp_path / "dt.json"), kind)
    lvis.run()
    theirs = lvis.get_results()
    assert read == pytest.approx(ours, abs=1e-12)
    assert {name: theirs[name] for name in ours if name != "AR"} == pytest.approx(
        {name: value for name, value in ours.items() if name != "AR"}, abs=1e-12
    )
    assert theirs["AR@300"] == pytest.approx(ours["AR"], abs=1e-12)


def test_entries(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = annotations(rng, Problem(images=3))
    found = detections(rng, Problem(), truth)
    for kind, field, other in (("bbox", "bbox", "segmentation"), ("segm", "segmentation", "bbox")):
        write_results(tmp_path / "dt.json", found, kind)
        entries = json.loads((tmp_path / "dt.json").read_text())
        assert len(entries) == len(found)
        assert all(field in entry and other not in entry for entry in entries)
    assert all(isinstance(entry["segmentation"]["counts"], str) for entry in entries)
    read = read_results(tmp_path / "dt.json").detections
    assert read.masks.rles(read.box_index[:5]) == found.masks.rles(found.box_index[:5])
    assert [path.name for path in tmp_path.iterdir()] == ["dt.json"]


def test_empty(tmp_path: Path) -> None:
    path = tmp_path / "dt.json"
    write_results(path, Detections.concatenate([]))
    assert json.loads(path.read_text()) == []
    assert len(read_results(path).detections) == 0


def test_images_are_gathered(tmp_path: Path) -> None:
    path = tmp_path / "dt.json"
    entries = [
        {"image_id": image, "category_id": 1, "bbox": [x, 0, 1, 1], "score": score}
        for image, x, score in [(7, 1, 0.1), (3, 2, 0.2), (7, 3, 0.3)]
    ]
    path.write_text(json.dumps(entries))
    read = read_results(path).detections
    assert read.image_ids == (7, 3)
    assert read.scores[read.rows(0)].tolist() == [0.1, 0.3]
    assert read.boxes[read.box_index[read.rows(0)]].tolist() == [[1, 0, 2, 1], [3, 0, 4, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', "image 'a'"),
        ('{"7": {"scores": [1], "labels": [1], "boxes": []}}', "0 boxes, 1 labels, 1 scores"),
        ('{"7": {"scores": [1], "labels": [1.5], "boxes": [[1, 2, 3, 4]]}}', "no integer"),
        ('{"7": {"scores": [1], "labels": [1], "boxes": [[1, 2, 3, NaN]]}}', "1 of 1 .* a box that is not"),
        ('[{"image_id": 1}]', "entry 0 is no detection"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3], "score": 1}]', "entry 0 is no detection"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": NaN}]', "not finite"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}', "is cut off"),
        ('[{"image_id": 1, "categ', "is cut off"),
        ("", "is cut off"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dt.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_results(tmp_path / "dt.json")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_results(tmp_path / "dt.json")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "dt.json"
    path.write_text("old")
    rng = np.random.default_rng(0)
    problem = Problem(masks=False)
    found = detections(rng, problem, annotations(rng, problem))
    with pytest.raises(InputError, match="no masks"):
        write_results(path, found, "segm")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["dt.json"]
