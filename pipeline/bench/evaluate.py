"""LVIS average precision of random detections: ours and the lvis package, time and peak memory.

At full size also what people run: the verb on a results file of boxes and masks, reading included.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from pipeline.bench.evaluate_file import score_file, write_problem
from pipeline.bench.evaluate_once import EvaluateRun, evaluate_once
from pipeline.bench.result import OURS, Findings, Goal, Row, against, take_turns
from pipeline.bench.settings import BenchSettings, EvaluateBench

PEER = "lvis package"
LVIS_VAL = 19_809  # images
EQUAL = Goal(of="ours", at_most=1e-4)
FULL_SECONDS, FULL_GIGABYTES = Goal(of="ours", at_most=60), Goal(of="ours", at_most=4)


def measure(settings: BenchSettings, folder: Path) -> Findings:
    """Each run is a process of its own, so that its peak memory is its own."""
    work = replace(settings.evaluate, images=LVIS_VAL) if settings.full else settings.evaluate
    runs: dict[str, list[EvaluateRun]] = {OURS: [], PEER: []}

    def contender(name: str) -> Callable[[], float]:
        def once() -> float:
            runs[name].append(_in_process(work, fast=name == OURS))
            return runs[name][-1].seconds

        return once

    repeats = 1 if settings.full else settings.repeats
    seconds = take_turns({name: contender(name) for name in runs}, repeats)
    what = f"LVIS AP, {work.images} images x {work.detections} detections"
    at_full = settings.full and work.detections == 300
    rows = against(what, "s", seconds, better="lower", goals={PEER: FULL_SECONDS} if at_full else {})
    memory = {name: tuple(run.gigabytes for run in found) for name, found in runs.items()}
    rows += against(
        f"{what}, peak memory", "GB", memory, better="lower", goals={PEER: FULL_GIGABYTES} if at_full else {}
    )
    rows.append(_difference(runs[OURS][0].metrics, runs[PEER][0].metrics))
    if settings.full:
        rows += _file_rows(work, folder)
    notes = ["Peak memory is that of the whole process: interpreter, annotations and detections included."]
    if not settings.full:
        notes.append(f"The size of LVIS val ({LVIS_VAL} images) is not measured here: --full.")
    return Findings(rows=rows, notes=notes)


def _file_rows(work: EvaluateBench, folder: Path) -> list[Row]:
    truth, results = write_problem(work, folder)
    rows = []
    for ap in ("standard", "fixed"):
        size = results.stat().st_size / 1e9
        what = f"rs-cache eval of a results file of {size:.1f} GB, {ap} AP of boxes and masks"
        seconds, gigabytes = score_file(truth, results, folder / ap, "--ap", ap)
        rows.append(Row(what=what, unit="s", ours=(seconds,), better="lower"))
        memory = f"{what}, peak memory"
        rows.append(Row(what=memory, unit="GB", ours=(gigabytes,), better="lower", goal=FULL_GIGABYTES))
    return rows


def _difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Row:
    worst = max(abs(ours[name] - theirs[name]) for name in theirs)
    return Row(
        what=f"largest difference of {len(theirs)} metrics",
        unit="",
        ours=(worst,),
        better="lower",
        goal=EQUAL,
    )


def _in_process(work: EvaluateBench, *, fast: bool) -> EvaluateRun:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(evaluate_once, work.images, work.detections, work.categories, fast=fast).result()
