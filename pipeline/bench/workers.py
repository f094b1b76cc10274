"""Extraction by several local Dask workers against one, each worker on cores of its own."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from pipeline import executors
from pipeline.bench.extracting import Extraction, extraction
from pipeline.bench.result import Findings, Goal, Row, take_turns
from pipeline.bench.settings import BenchSettings
from pipeline.bench.timed_work import Span, Steady, TimedPartitions, steady_state
from pipeline.partition import ExtractJob
from regionspot_cache.store import CacheWriter

LINEAR = Goal(of="ours", at_least=0.9)
IDLE = Goal(of="ours", at_most=0.02)


def measure(settings: BenchSettings, folder: Path) -> Findings:
    """Rate of N workers as a share of N times the rate of one, while all are at work."""
    work, shares = settings.workers, _shares(settings.workers.workers)
    if not shares:
        return Findings(notes=[f"Not measured: there are no {work.workers} cores to tie workers to."])
    several = extraction(settings, folder, images=work.images, partition_size=work.partition_size)
    fewer = several.dataset.sample(len(several.dataset) // work.workers, seed=0)
    one = replace(several, dataset=fewer)
    number, idle = count(), []

    def run(task: Extraction, workers: int) -> float:
        steady = _run(task, folder / f"cache-{next(number)}", workers, shares)
        if workers > 1:
            idle.append(steady.idle)
        return steady.rate

    runs = take_turns(
        {"one": partial(run, one, 1), "several": partial(run, several, work.workers)}, settings.repeats
    )
    linear = tuple(n / (work.workers * o) for n, o in zip(runs["several"], runs["one"], strict=True))
    return Findings(rows=_rows(runs, linear, idle, several, work.workers), notes=_notes(len(shares[0])))


def _shares(workers: int) -> list[list[int]]:
    """Equal shares of the cores of this process, one a worker; none where that cannot be."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    each = len(cores) // workers
    return [cores[worker * each : (worker + 1) * each] for worker in range(workers)] if each else []


def _rows(
    runs: dict[str, tuple[float, ...]],
    linear: tuple[float, ...],
    idle: list[float],
    task: Extraction,
    workers: int,
) -> list[Row]:
    what = f"extract, {task.spec.name}, {workers} workers"
    return [
        Row(what=what, unit="images/s", ours=runs["several"], peer="1 worker", theirs=runs["one"]),
        Row(what=f"{what}: share of linear", unit="", ours=linear, goal=LINEAR),
        Row(what=f"{what}: idle between partitions", unit="", ours=tuple(idle), better="lower", goal=IDLE),
    ]


def _notes(cores_each: int) -> list[str]:
    return [
        f"Every worker is tied to {cores_each} core(s) and waits until all have loaded the networks. Neither "
        "its first partition counts, nor the time after one worker has run out of work.",
        "Idle: neither reading, encoding nor writing, but waiting for the scheduler.",
    ]


def _run(task: Extraction, cache: Path, workers: int, shares: Sequence[Sequence[int]]) -> Steady:
    spans: list[Span] = []
    meeting = cache.with_suffix(".workers")
    meeting.mkdir()

    def run_all(job: ExtractJob, writer: CacheWriter) -> None:
        unit = TimedPartitions(job=job, shares=shares[:workers], meeting=meeting)
        for _, outcome in executors.run_on_workers(unit, list(range(writer.num_partitions)), workers=workers):
            if isinstance(outcome, Exception):
                raise outcome
            spans.append(outcome)

    task.run(cache, run_all)
    return steady_state(spans, workers)
