"""Extraction by several local Dask workers against one, each worker on cores of its own."""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

from pipeline import executors
from pipeline.bench.extracting import Extraction, extraction
from pipeline.bench.result import Findings, Goal, Row, take_turns
from pipeline.bench.settings import BenchSettings
from pipeline.partition import ExtractJob, extract_partition
from regionspot_cache.errors import RegionSpotError
from regionspot_cache.store import CacheWriter

LINEAR = Goal(of="ours", at_least=0.9)
IDLE = Goal(of="ours", at_most=0.02)


@dataclass(frozen=True, kw_only=True)
class Span:
    """One partition on one worker, in seconds of the machine's clock."""

    worker: int
    start: float
    stop: float
    images: int


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
        f"Every worker is tied to {cores_each} core(s). Its first partition, which loads the networks, does "
        "not count, nor does the time after one worker has run out of work.",
        "Idle: neither reading, encoding nor writing, but waiting for the scheduler.",
    ]


@dataclass(frozen=True, kw_only=True)
class Steady:
    """What happens while all workers are at work.

    Attributes:
        rate: images a second, all workers together.
        idle: share of the workers' time between partitions.
    """

    rate: float
    idle: float


def steady_state(spans: Iterable[Span], workers: int) -> Steady:
    """From the last worker's end of its first partition to the first worker's end of its last one.

    A partition counts by the share of it that lies in this time.

    Raises:
        RegionSpotError: there is no such time: a worker got too little work.
    """
    by_worker: dict[int, list[Span]] = {}
    for span in sorted(spans, key=lambda span: span.start):
        by_worker.setdefault(span.worker, []).append(span)
    begin = max(own[0].stop for own in by_worker.values())
    end = min(own[-1].stop for own in by_worker.values())
    if len(by_worker) < workers or end <= begin:
        raise RegionSpotError(
            f"{len(by_worker)} of {workers} workers were at work at the same time.",
            "Several partitions for each.",
            "Give more images: --set workers.images=1000",
        )
    images = busy = 0.0
    for span in (span for own in by_worker.values() for span in own):
        inside = max(0.0, min(span.stop, end) - max(span.start, begin))
        busy += inside
        images += span.images * inside / (span.stop - span.start)
    return Steady(rate=images / (end - begin), idle=1 - busy / (workers * (end - begin)))


def _run(task: Extraction, cache: Path, workers: int, shares: Sequence[Sequence[int]]) -> Steady:
    spans: list[Span] = []

    def run_all(job: ExtractJob, writer: CacheWriter) -> None:
        unit = partial(timed_partition, job, shares)
        for _, outcome in executors.run_on_workers(unit, list(range(writer.num_partitions)), workers=workers):
            if isinstance(outcome, Exception):
                raise outcome
            spans.append(outcome)

    task.run(cache, run_all)
    return steady_state(spans, workers)


def timed_partition(job: ExtractJob, shares: Sequence[Sequence[int]], p: int) -> Span:
    """`extract_partition` on this worker's share of the cores, and when it ran."""
    from distributed import get_worker

    worker = int(get_worker().name)
    _stay_on(shares[worker])
    start = time.time()
    report = extract_partition(job, p)
    return Span(worker=worker, start=start, stop=time.time(), images=report.images)


def _stay_on(share: Sequence[int]) -> None:
    """One worker alone must not use more cores than one of several, or there is nothing to compare."""
    import torch

    if os.sched_getaffinity(0) != set(share):
        os.sched_setaffinity(0, share)
        torch.set_num_threads(len(share))
