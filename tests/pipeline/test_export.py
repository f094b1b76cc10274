"""`rs-cache export`: regions as Parquet, a head as ONNX."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.region_set import _cached_alone
from regionspot_cache.datasets import load_source
from regionspot_cache.errors import MissingFileError
from regionspot_cache.recognition.predictor import RegionPredictor
from regionspot_cache.reporting.regions_table import table_metadata
from regionspot_cache.store import open_cache
from regionspot_cache.training.head import RegionHead
from tests.models.test_onnx_head import require_same, session_of
from tests.pipeline.explore_world import labels_in
from tests.running import Ran, rs_cache

RUN = Path("rs-cache-data/runs/small")
CACHE = Path("rs-cache-data/caches/shapes-train-small")
SHAPES = Path("rs-cache-data/datasets/shapes")


def export(cwd: Path, source: object, out: Path, *options: object) -> Ran:
    return rs_cache("export", source, "--checkpoint", RUN, "--out", out, *options, "--json", cwd=cwd)


def test_the_regions_of_a_cache(finished: Path, tmp_path: Path) -> None:
    ran = export(finished, CACHE, tmp_path / "new" / "r.parquet")
    assert ran.code == 0, ran.err
    table = pq.read_table(tmp_path / "new" / "r.parquet")
    facts = table_metadata(table)
    assert ran.json == {"file": str(tmp_path / "new" / "r.parquet"), **facts, "bytes": ran.json["bytes"]}
    truth = json.loads((finished / SHAPES / "train.json").read_text())
    assert facts["regions"] == len(table) == len(truth["annotations"])
    names = {category["id"]: category["name"] for category in truth["categories"]}
    classes = dict(zip(table["box_id"].to_pylist(), table["class"].to_pylist(), strict=True))
    assert classes == {one["id"]: names[one["category_id"]] for one in truth["annotations"]}
    lengths = np.linalg.norm(np.stack(table["embedding"].to_pylist()), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_names_are_those_of_the_predictor(finished: Path, tmp_path: Path) -> None:
    ran = export(finished, "shapes:val", tmp_path / "r.parquet", "--classes", "red star,blue ring,dog")
    assert ran.code == 0, ran.err
    rows = pq.read_table(tmp_path / "r.parquet").to_pylist()
    rows = [row for row in rows if row["image_id"] == rows[0]["image_id"]]
    predictor = RegionPredictor.from_pretrained(finished / RUN)
    predictor.set_image(finished / SHAPES / "images" / rows[0]["file_name"])
    boxes = [[row[side] for side in ("x0", "y0", "x1", "y1")] for row in rows]
    said = predictor.predict(boxes, ["red star", "blue ring", "dog"])
    np.testing.assert_allclose([row["score"] for row in rows], said.scores, atol=0.03)
    sure = [i for i, row in enumerate(rows) if row["margin"] > 0.1]
    assert sure
    assert [rows[i]["predicted"] for i in sure] == [said.names[i] for i in sure]


def test_a_picture_that_cannot_be_read_is_counted_alone(finished: Path, tmp_path: Path) -> None:
    labels = labels_in(tmp_path, finished)
    broken, *whole = json.loads(labels.read_text())["images"]
    (tmp_path / broken["file_name"]).write_bytes(b"nothing")
    ran = export(finished, labels, tmp_path / "r.parquet", "--set", "cache=rs-cache-data/caches/none")
    assert ran.code == 1  # a cache that was named must be there
    ran = export(finished, labels, tmp_path / "r.parquet")
    assert ran.code == 0, ran.err
    assert ran.json["failures"] == {"undecodable": 1}
    table = pq.read_table(tmp_path / "r.parquet")
    assert set(table["image_id"].to_pylist()) == {image["id"] for image in whole}


def test_an_array_of_the_cache_has_no_names(finished: Path, tmp_path: Path) -> None:
    ran = rs_cache(
        "export", CACHE, "--method", "sam/transformer", "--out", tmp_path / "r.parquet", cwd=finished
    )
    assert ran.code == 0, ran.err
    assert "embeddings of 128 numbers" in ran.out
    table = pq.read_table(tmp_path / "r.parquet")
    assert table["predicted"].null_count == len(table)
    assert table["class"].null_count == 0


def test_a_cache_whose_annotations_are_gone(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise MissingFileError("There is no file labels.json.")

    monkeypatch.setattr("pipeline.region_set.load_source", gone)
    ran = export(finished, CACHE, tmp_path / "r.parquet", "--limit", "3")
    assert ran.code == 0, ran.err
    assert "have no classes: There is no file labels.json." in ran.err
    table = pq.read_table(tmp_path / "r.parquet")
    assert table["class"].null_count == len(table)
    assert set(table["predicted"].to_pylist()) <= set(
        (finished / RUN / "classes.txt").read_text().splitlines()
    )
    assert table_metadata(table)["images"] == 3
    ran = export(finished, CACHE, tmp_path / "r.parquet", "--method", "clip-box")
    assert (ran.code, ran.error["expected"]) == (2, "--classes NAMES.")


def test_what_cache_and_annotations_do_not_share_is_counted(finished: Path, tmp_path: Path) -> None:
    truth = json.loads((finished / SHAPES / "train.json").read_text())
    first, second = truth["annotations"][:2]
    truth["annotations"] = [{**first, "bbox": [1, 1, 20, 20]}, *truth["annotations"][2:]]
    (tmp_path / "fewer.json").write_text(json.dumps(truth))
    cache = open_cache(finished / CACHE)
    source = replace(
        cache.source, dataset=str(tmp_path / "fewer.json"), images=str(finished / SHAPES / "images")
    )
    dataset, left_out = _cached_alone(load_source(source), cache)
    assert left_out == {"box not in the cache": 1, "box without annotation": 2}
    assert {first["id"], second["id"]}.isdisjoint(dataset.annotation_ids.tolist())
    assert dataset.num_boxes == len(truth["annotations"]) - 1


def test_a_head_for_onnxruntime(finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("onnxscript")
    ran = rs_cache("export", RUN, "--out", tmp_path / "new" / "head.onnx", "--json", cwd=finished)
    assert (ran.code, ran.err) == (0, "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert ran.json["file"] == str(tmp_path / "new" / "head.onnx")
    head, session = RegionHead.from_pretrained(finished / RUN), session_of(tmp_path / "new" / "head.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["regionspot-cache"])
    assert about["inputs"] == {"query": "sam/transformer", "memory": ["clip/map"]}
    for boxes, names, map_tokens in (
        (1, 3, head.config.map_tokens),
        (80, 1, head.config.map_tokens),
        (2, 2, 7),
    ):
        require_same(head, session, 2, boxes, names, map_tokens)


@pytest.mark.parametrize(
    ("arguments", "code", "found"),
    [
        ((CACHE, "--out", "r.csv"), 2, "--out r.csv"),
        ((CACHE, "--out", "r.parquet", "--method", "clip-bax"), 2, "--method clip-bax"),
        ((CACHE, "--out", "r.parquet", "--method", "clip/map"), 2, "clip/map is an array by image"),
        ((CACHE, "--out", "r.parquet", "--method", "sam/none"), 1, "sam/none"),
        (("shapes:val", "--out", "r.parquet", "--method", "sam/none"), 2, "without a cache"),
        (("no/where", "--out", "r.parquet"), 1, "no cache at no/where"),
        (("none.json", "--out", "r.parquet"), 1, "none.json"),
        ((RUN, "--out", "r.parquet"), 2, "is a trained head, which has no regions"),
        ((CACHE, "--out", "r.parquet", "--images", "none"), 1, "no image folder none"),
        ((CACHE, "--out", "r.parquet", "--classes", " , "), 2, "names nothing"),
        ((RUN, "--out", "a.pth", "--limit", "3"), 2, "limit is given for --out a.pth"),
        ((CACHE, "--out", "r.parquet", "--set", "backbone=other.yaml"), 4, "clip.weights_sha256"),
    ],
)
def test_what_cannot_be_exported(
    arguments: tuple[object, ...], code: int, found: str, finished: Path
) -> None:
    checkpoint = () if arguments[0] == RUN else ("--checkpoint", RUN)
    ran = rs_cache("export", *arguments, *checkpoint, cwd=finished)
    assert (ran.code, found in ran.error["error"]) == (code, True), ran.err
    assert not (finished / "r.parquet").exists()
