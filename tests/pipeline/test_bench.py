"""Every benchmark at its smallest, and the arithmetic behind the table."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.bench import evaluate, extract, read, train, workers
from pipeline.bench.evaluate_data import random_problem
from pipeline.bench.evaluate_file import write_problem
from pipeline.bench.read_streaming import STREAMS
from pipeline.bench.report import number
from pipeline.bench.result import OURS, Findings, Goal, Row, against, take_turns
from pipeline.bench.settings import (
    BenchSettings,
    EvaluateBench,
    ExtractBench,
    ReadBench,
    TrainBench,
    WorkersBench,
)
from pipeline.bench.timed_work import Span, steady_state
from pipeline.cli import run
from regionspot_cache.errors import RegionSpotError
from regionspot_cache.evaluation import evaluate as average_precision
from regionspot_cache.evaluation import read_results

SMALL = BenchSettings(
    repeats=2,
    device="cpu",
    read=ReadBench(images=20, tokens=5, width=16, partition_size=8, batch_size=4, seconds=0.01),
    extract=ExtractBench(images=3, batch_size=2),
    train=TrainBench(sizes=("tiny",), batch_size=2, boxes=2, images=4, classes=3, steps=2),
    evaluate=EvaluateBench(images=3, detections=6, categories=4),
    workers=WorkersBench(images=24, partition_size=4),
)


def by_peer(found: Findings, what: str) -> dict[str | None, Row]:
    return {row.peer: row for row in found.rows if what in row.what}


def test_read(tmp_path: Path) -> None:
    found = read.measure(SMALL, tmp_path)
    for work in ("int8 maps [5, 16], random", "float16 maps [5, 16], random", "int8 maps [5, 16], window"):
        rows = by_peer(found, work)
        assert {"numpy memmap (limit)", "zarr-python", "tensorstore", ".pth per image"} <= set(rows)
        assert all(
            len(row.ours) == len(row.theirs) == 2 and min(row.ours + row.theirs) > 0 for row in rows.values()
        )
        assert len({row.ours for row in rows.values()}) == 1  # one measurement of ours beside all peers
        assert rows["numpy memmap (limit)"].goal == Goal(of="ratio", at_least=0.5)
        assert sum(row.goal == Goal(of="ratio", at_least=2) for row in rows.values()) == 1  # the best format
    missing = {note.split(":")[0] for note in found.notes if "not installed" in note}
    assert set(by_peer(found, "int8 maps [5, 16], window")) >= set(STREAMS) - missing


def test_a_reader_with_other_values_is_refused() -> None:
    values = np.zeros((2, 5, 16), np.int8)
    readers = {OURS: lambda _: (values, None), "peer": lambda _: (values + np.int8(1), None)}
    with pytest.raises(RegionSpotError, match="peer returns other values"):
        read._check_equal(readers, np.arange(2))


@pytest.mark.parametrize("order", [read._random_order, read._window_order])
def test_orders_visit_every_image_equally_often(order) -> None:
    images = np.concatenate(order(SMALL.read))
    assert np.bincount(images).tolist() == [4] * 20


def test_a_window_is_one_partition() -> None:
    images = np.concatenate(read._window_order(ReadBench(images=16, partition_size=8, batch_size=4)))
    windows = (images // 8).reshape(-1, 8)
    assert (windows == windows[:, :1]).all()


def test_extract(tmp_path: Path) -> None:
    found = extract.measure(SMALL, tmp_path)
    speed, tokens, maps = found.rows
    assert speed.peer == extract.PEER
    assert min(speed.ours + speed.theirs) > 0
    # The peer is made of the libraries' own paths, so this also proves the features right.
    assert 0 < tokens.ours[0] < 1e-3
    assert 0 < maps.ours[0] < 1e-3
    assert "GPU: none used, not measured." in found.notes


def test_cosine_distance() -> None:
    a = np.array([[1.0, 0], [1, 1]])
    assert extract.cosine_distance(a, 3 * a) == pytest.approx(0, abs=1e-12)
    assert extract.cosine_distance(a, np.array([[0.0, 1], [1, 1]])) == pytest.approx(1)
    assert extract.cosine_distance(a[:0], a[:0]) == 0
    with pytest.raises(RegionSpotError):
        extract.cosine_distance(a, a[:1])


def test_train(tmp_path: Path) -> None:
    found = train.measure(SMALL, tmp_path)
    (row,) = found.rows
    assert len(row.ours) == len(row.theirs) == 2
    assert min(row.ours + row.theirs) > 0
    assert any("l14-336" in note for note in found.notes)
    assert not list(tmp_path.rglob("*.safetensors"))  # stopped before the checkpoint


def test_evaluate(tmp_path: Path) -> None:
    found = evaluate.measure(SMALL, tmp_path)
    seconds, memory, difference = found.rows
    assert min(seconds.ours + seconds.theirs) > 0
    assert 0.02 < min(memory.ours) <= max(memory.ours) < 2
    assert difference.met


def test_the_random_problem_has_detections_of_all_outcomes() -> None:
    annotations, detections = random_problem(20, 30, 5)
    assert len(detections) == 600
    assert detections.category_ids.min() >= 1
    assert detections.category_ids.max() <= 5
    assert (detections.boxes[:, 2:] > detections.boxes[:, :2]).all()
    for image in annotations["images"]:
        present = {a["category_id"] for a in annotations["annotations"] if a["image_id"] == image["id"]}
        assert not present & set(image["neg_category_ids"])
        assert set(image["not_exhaustive_category_ids"]) <= present


def test_a_results_file_like_those_of_other_systems(tmp_path: Path) -> None:
    truth, results = write_problem(SMALL.evaluate, tmp_path)
    found = read_results(results).detections
    assert len(found) == len(found.masks) == 3 * 6
    scored = average_precision(found, truth)
    assert set(scored) == {"bbox", "segm"}
    assert 0 < scored["segm"].metrics["AR"] < 1


@pytest.mark.slow
def test_workers(tmp_path: Path) -> None:
    found = workers.measure(SMALL, tmp_path)
    if found.rows:
        speed, share, idle = found.rows
        assert min(speed.ours + speed.theirs + share.ours) > 0
        assert 0 <= min(idle.ours) < 1
    else:
        assert "Not measured" in found.notes[0]


def test_workers_need_cores_of_their_own(tmp_path: Path) -> None:
    found = workers.measure(BenchSettings(workers=WorkersBench(workers=10_000)), tmp_path)
    assert not found.rows
    assert "Not measured" in found.notes[0]


def test_steady_state_leaves_out_the_start_and_the_end() -> None:
    first = [Span(worker=0, start=0, stop=10, images=8), Span(worker=1, start=1, stop=8, images=8)]
    counted = [
        Span(worker=0, start=10, stop=14, images=8),
        Span(worker=0, start=14, stop=18, images=8),  # 2 of its 4 seconds are inside: 4 images
        Span(worker=1, start=8, stop=12, images=8),  # 2 of its 4 seconds are inside: 4 images
        Span(worker=1, start=13, stop=16, images=6),  # one second idle before it
    ]
    steady = steady_state([*first, *counted], 2)  # from 10 to 16
    assert steady.rate == pytest.approx((8 + 4 + 4 + 6) / 6)
    assert steady.idle == pytest.approx(1 / 12)


@pytest.mark.parametrize(
    "spans",
    [
        [Span(worker=0, start=0, stop=1, images=1), Span(worker=0, start=1, stop=2, images=1)],
        [Span(worker=0, start=0, stop=1, images=1), Span(worker=1, start=0, stop=1, images=1)],
    ],
)
def test_no_steady_state_is_an_error(spans: list[Span]) -> None:
    with pytest.raises(RegionSpotError, match="of 2 workers"):
        steady_state(spans, 2)


def test_contenders_take_turns() -> None:
    calls: list[str] = []

    def contender(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    runs = take_turns({name: lambda n=name: contender(n) for name in "ab"}, 2)
    assert calls == ["a", "b", "a", "b"]
    assert runs == {"a": (1, 3), "b": (2, 4)}


@pytest.mark.parametrize(("better", "ratio"), [("higher", 4), ("lower", 0.25)])
def test_ratio_is_of_medians_and_says_how_much_better_we_are(better, ratio: float) -> None:
    (row,) = against("work", "s", {OURS: (8, 1, 9), "peer": (2, 2, 100)}, better=better)
    assert row.ratio == ratio


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal(of="ratio", at_least=2), True),
        (Goal(of="ratio", at_least=2.5), False),
        (Goal(of="ours", at_most=4), True),
        (Goal(of="ours", at_most=3.9), False),
        (None, None),
    ],
)
def test_goals(goal: Goal | None, met: bool | None) -> None:
    assert Row(what="w", unit="", ours=(4,), peer="p", theirs=(2,), goal=goal).met is met


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,346"), (12.34, "12.3"), (1.234, "1.23"), (0.5, "0.500"), (1.2e-5, "1.2e-05"), (0, "0")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_the_verb_writes_dated_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.md"
    small = ["evaluate.images=2", "evaluate.detections=3", "evaluate.categories=2", "repeats=1"]
    options = [part for setting in small for part in ("--set", setting)]
    assert run(["bench", "evaluate", *options, "--out", str(out), "--json"]) == 0
    kept = json.loads(out.with_suffix(".json").read_text())
    assert json.loads(capsys.readouterr().out)["results"] == kept["results"]
    assert kept["machine"]["cores"] >= 1
    assert kept["machine"]["numpy"] == np.__version__
    page = out.read_text()
    for part in (kept["date"], kept["command"], kept["machine"]["cpu"], "## evaluate", "lvis package"):
        assert part in page


@pytest.mark.parametrize("arguments", [["nothing"], ["raed"], ["--out", "x.txt"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", *arguments]) == 2
    assert "expected:" in capsys.readouterr().err
