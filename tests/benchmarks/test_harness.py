"""The arithmetic behind the tables, and the command that writes them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.harness import OURS, Row, against, memory_of_all, number, take_turns


def test_contenders_take_turns() -> None:
    calls: list[str] = []

    def contender(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    runs = take_turns({name: lambda n=name: contender(n) for name in "ab"}, 2)
    assert calls == ["a", "b", "a", "b"]
    assert runs == {"a": [1, 3], "b": [2, 4]}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc")
def test_memory_is_that_of_all_processes() -> None:
    status = Path("/proc/self/status").read_text().partition("VmRSS:")[2]
    alone = int(status.split()[0]) / 1e6
    code = "held = bytearray(300_000_000); print(flush=True); input()"
    with (
        memory_of_all(0.01) as peak,
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        end = time.monotonic() + 60
        while peak() < alone + 0.2 and time.monotonic() < end:
            time.sleep(0.01)
        process.kill()
    assert peak() > alone + 0.2


@pytest.mark.parametrize(("lower", "ratio"), [(False, 4), (True, 0.25)])
def test_ratio_is_of_medians_and_says_how_much_better_we_are(lower: bool, ratio: float) -> None:
    (row,) = against("work", "s", {OURS: (8, 1, 9), "peer": (2, 2, 100)}, lower=lower)
    assert row.ratio == ratio


@pytest.mark.parametrize(
    ("goal", "met"), [(">= 2x", True), (">= 2.5x", False), ("<= 4", True), ("<= 3.9", False), ("-", None)]
)
def test_goals(goal: str, met: bool | None) -> None:
    assert Row(what="w", unit="", ours=(4,), peer="p", theirs=(2,), goal=goal).met is met


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,346"), (12.34, "12.3"), (1.234, "1.23"), (0.5, "0.500"), (1.2e-5, "1.2e-05"), (0, "0")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_the_command_writes_dated_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.md"
    small = ["evaluate.images=2", "evaluate.detections=3", "evaluate.categories=2", "repeats=1"]
    main(["evaluate", *(part for setting in small for part in ("--set", setting)), "--out", str(out)])
    kept = json.loads(out.with_suffix(".json").read_text())
    assert kept["machine"]["cores"] >= 1
    assert kept["machine"]["numpy"] == np.__version__
    assert kept["results"]["evaluate"][0]["peer"] == "lvis package"
    page = out.read_text()
    for part in (kept["date"], kept["command"], kept["machine"]["cpu"], "## evaluate", "lvis package"):
        assert part in page
    assert capsys.readouterr().out.strip() in page


@pytest.mark.parametrize("wrong", [["nothing"], ["--out", "x.txt"], ["--set", "repeats=0"], ["--set", "x=1"]])
def test_wrong_usage(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *wrong])
    assert ended.value.code
    assert "Traceback" not in capsys.readouterr().err
