"""What an evaluation leaves to look at: the CSV says what the metrics say, the page has every part."""

import csv
import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.evaluate.pictures import _distinct, _met
from pipeline.evaluate.report import COLUMNS
from pipeline.report_figures import FEW, pick_images
from pipeline.report_tables import (
    group_tables,
    method_name,
    metric_table,
    overall_tables,
    percent,
    protocol_sections,
)
from regionspot_cache.datasets import load_dataset
from regionspot_cache.reporting.page import KeyValues, Table
from tests.reporting.test_page import Page
from tests.running import rs_cache

RUN = Path("rs-cache-data/runs/small")
METHODS = ("regionspot", "clip-box", "clip-mask")


def evaluate(finished: Path, out: Path, *options: object) -> dict:
    """The results of an evaluation of every method."""
    methods = [option for name in METHODS for option in ("--method", name)]
    ran = rs_cache("eval", "--checkpoint", RUN, "--out", out, "--json", *methods, *options, cwd=finished)
    assert ran.code == 0, ran.err
    assert str(out / "report.html") in ran.err
    return ran.json


@pytest.fixture(scope="module")
def given(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation of given boxes, with one picture."""
    out = tmp_path_factory.mktemp("given")
    evaluate(finished, out, "--set", "pictures=1")
    return out


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "per_class.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_the_csv_has_every_class_of_every_method(given: Path, finished: Path) -> None:
    rows = rows_of(given)
    truth = json.loads((finished / "rs-cache-data/datasets/shapes/val.json").read_text())
    assert tuple(rows[0]) == COLUMNS
    assert [row["method"] for row in rows[:: len(truth["categories"])]] == list(METHODS)
    names = {category["id"]: category["name"] for category in truth["categories"]}
    boxes = np.bincount([a["category_id"] for a in truth["annotations"]], minlength=max(names) + 1)
    for row in rows:
        assert row["name"] == names[int(row["category id"])]
        assert row["frequency"] in {"r", "c", "f"}
        assert row["novel"] in {"yes", "no"}
        assert int(row["boxes"]) == boxes[int(row["category id"])]
        assert (row["top-1"] == "") == (row["boxes"] == "0")
    assert b"\r\n" in (given / "per_class.csv").read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_the_csv_says_what_the_metrics_say(given: Path, method: str) -> None:
    results = json.loads((given / "metrics.json").read_text())["results"]
    metrics = next(r["metrics"] for r in results if r["protocol"]["method"].startswith(method))
    rows = [row for row in rows_of(given) if row["method"] == method and row["boxes"] != "0"]
    for column, kind in (("AP box", "box"), ("AP mask", "mask")):
        values = [float(row[column]) for row in rows if row[column]]
        assert np.mean(values) == pytest.approx(metrics[kind]["AP"], abs=1e-5)
        novel = [float(row[column]) for row in rows if row[column] and row["novel"] == "yes"]
        assert np.mean(novel) == pytest.approx(metrics[kind]["AP novel"], abs=1e-5)
    boxes = np.array([int(row["boxes"]) for row in rows])
    top1 = np.array([float(row["top-1"]) for row in rows])
    assert (boxes * top1).sum() / boxes.sum() == pytest.approx(metrics["accuracy"]["top1"], abs=1e-5)
    assert all((row["top-1"] == "1.000000") == (row["most often confused with"] == "") for row in rows)
    assert all(row["most often confused with"] != row["name"] for row in rows)


def test_the_table_of_boxes_says_what_the_metrics_say(given: Path, finished: Path) -> None:
    results = json.loads((given / "metrics.json").read_text())["results"]
    truth = json.loads((finished / "rs-cache-data/datasets/shapes/val.json").read_text())
    rows = pq.read_table(given / "boxes.parquet").to_pylist()
    for method, result in zip(METHODS, results, strict=True):
        own = [row for row in rows if row["method"] == method]
        assert sorted(row["box_id"] for row in own) == sorted(a["id"] for a in truth["annotations"])
        top1, top5 = (np.mean([row["class"] in row["top_names"][:k] for row in own]) for k in (1, 5))
        accuracy = result["metrics"]["accuracy"]
        assert (top1, top5) == pytest.approx((accuracy["top1"], accuracy["top5"]))
    with (given / "boxes.csv").open(encoding="utf-8", newline="") as file:
        assert [row["predicted"] for row in csv.DictReader(file)] == [row["predicted"] for row in rows]


def test_the_page_has_every_part_and_loads_nothing(given: Path) -> None:
    html = (given / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    headings = re.findall("<h2>(.*?)</h2>", html)
    assert headings == [
        "How well each method does",
        "Compared with regionspot",
        "Groups of classes",
        "Hardest classes",
        "Confusion of near classes",
        "Worst images",
        "Pictures",
        "Protocol",
    ]
    captions = re.findall("<caption>(.*?)</caption>", html)
    for caption in ("Box AP", "Mask AP", "Accuracy of the given boxes", "Hardest for regionspot"):
        assert caption in captions
    assert "Boxes named wrongly" in captions
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.elements}
    sources = [str(image["src"]) for image in page.all("img")]
    assert all(source.startswith("data:image/") for source in sources)
    alts = [str(image["alt"]) for image in page.all("img")]
    assert [alt.split(" ")[0] for alt in alts[:5]] == ["truly", *METHODS, METHODS[0]]
    assert "layer 1 most at" in alts[5]
    assert (len(alts) - 5) // 2 in range(1, 5)  # boxes whose attention is shown in both layers
    for word in ("beside the truth", "SAM's masks", "where regionspot looks for box"):
        assert word in unescape(html)


def test_numbers_of_the_page_are_those_of_the_metrics(given: Path) -> None:
    results = json.loads((given / "metrics.json").read_text())["results"]
    text = re.sub("<[^>]+>", " ", (given / "report.html").read_text(encoding="utf-8"))
    ours = [f"{100 * results[0]['metrics']['box'][name]:.1f}" for name in ("AP", "AP50", "AP75")]
    assert re.search(r"regionspot\s+" + r"\s+".join(map(re.escape, ours)), text)


def test_proposals_have_recall_and_pictures_but_no_confusion(finished: Path, tmp_path: Path) -> None:
    evaluate(
        finished, tmp_path, "--proposals", "rpn", "--limit", 1, "--set", "top_n=10", "--set", "pictures=1"
    )
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Recall of the proposals" in html
    assert "Confusion of near classes" not in html
    assert "beside the truth" in html
    assert all(row["top-1"] == row["most often confused with"] == "" for row in rows_of(tmp_path))


def test_a_file_of_results_has_its_classes_and_no_pictures(
    finished: Path, given: Path, tmp_path: Path
) -> None:
    file = given / "clip-box-bbox.json"
    ran = rs_cache("eval", "--method", f"results:{file}", "--out", tmp_path, "--json", cwd=finished)
    assert ran.code == 0, ran.err
    ours = [row["AP box"] for row in rows_of(given) if row["method"] == "clip-box"]
    theirs = [row["AP box"] for row in rows_of(tmp_path)]
    assert theirs == ours
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<img" not in html
    assert "Hardest for clip-box-bbox" in html


def test_no_pictures_on_demand(finished: Path, tmp_path: Path) -> None:
    evaluate(finished, tmp_path, "--limit", 1, "--set", "pictures=0", "--set", "masks=false")
    assert "<img" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    ran = rs_cache("eval", "--checkpoint", RUN, "--set", "pictures=-1", cwd=finished)
    assert ran.code == 2
    assert "pictures = -1" in ran.error["error"]


def test_images_with_few_boxes_come_first_and_by_seed(finished: Path) -> None:
    dataset = load_dataset("shapes", split="val", data_root=finished / "rs-cache-data/datasets")
    counts = np.diff(dataset.offsets)
    few = (counts >= FEW[0]) & (counts <= FEW[1])
    order = pick_images(dataset, 0)
    assert sorted(order) == np.flatnonzero(counts).tolist()
    assert few[order[: few.sum()]].all()
    np.testing.assert_array_equal(order, pick_images(dataset, 0))
    assert any(pick_images(dataset, seed).tolist() != order.tolist() for seed in range(1, 6))


def test_proposals_of_a_picture_are_apart_and_matched() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], np.float32)
    kept = _distinct(boxes, np.array([0.2, 0.9, 0.5], np.float32))
    assert kept.tolist() == [1, 2]
    assert _met(boxes[kept], np.array([[0, 0, 10, 10]], np.float32), ["cat"]) == ["cat", None]
    assert _met(boxes, np.zeros((0, 4), np.float32), []) == [None] * 3


def test_what_was_not_measured_is_left_out() -> None:
    protocol = {"method": "a on b", "dataset": "d"}
    results = [
        {"protocol": protocol, "metrics": {"box": {"AP": 0.5, "APr": -1.0}}},
        {"protocol": {**protocol, "method": "c, COCO results c.json"}, "metrics": {}},
    ]
    (table,) = metric_table("t", results, "box", ("AP", "APr", "APx"))
    assert (table.columns, table.rows) == (["method", "AP"], [["a", 50.0]])
    assert metric_table("t", results, "mask", ("AP",)) == []
    assert percent(float("nan")) is None
    shared, differing = protocol_sections(results)
    assert isinstance(shared, KeyValues)
    assert isinstance(differing, Table)
    assert shared.items == {"dataset": "d"}
    assert differing.rows == [["a on b"], ["c, COCO results c.json"]]
    assert [method_name(result) for result in results] == ["a", "c"]


def test_another_kind_of_ap_is_named_above_its_numbers() -> None:
    result = {"protocol": {"method": "own", "ap_type": "fixed (3 a class)"}, "metrics": {"box": {"APr": 0.5}}}
    sections = [*overall_tables([result | {"metrics": {"box": {"AP": 0.5}}}]), *group_tables([result])]
    captions = [section.caption for section in sections if isinstance(section, Table)]
    assert captions == ["Box AP, fixed (3 a class)", "Box AP, fixed (3 a class) by group of classes"]
