"""Extraction by several local Dask workers against one, each worker on cores of its own."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import dask
from distributed import Client, LocalCluster, get_task_stream

from benchmarks.extract import extraction, quietly
from benchmarks.harness import Findings, Row, cores, take_turns
from benchmarks.settings import Settings
from pipeline.verbs.extract import ExtractSettings
from regionspot_cache.errors import RegionSpotError
from regionspot_cache.extraction.partition import AT_ONCE

REMARKS = [
    "Not counted: loading the networks, a worker's first partition, the time after one has run out of work.",
    "Idle: neither reading, encoding nor writing, but waiting for the scheduler.",
]
WARM_UP = 2  # tasks of a worker: what its networks are, and a first partition


class Task(NamedTuple):
    """What one worker did in one go, in seconds."""

    worker: str
    start: float
    stop: float


class Steady(NamedTuple):
    """While all workers are at work: partitions a second, and the share of time between partitions."""

    rate: float
    idle: float


def measure(settings: Settings, folder: Path) -> Findings:
    """Rate of N workers as a share of N times the rate of one, while all are at work."""
    work = settings.workers
    each = len(cores()) // work.workers
    if not each or not hasattr(os, "sched_setaffinity"):
        return [f"Not measured: there are no {work.workers} cores to tie workers to."]
    shares = [cores()[worker * each : (worker + 1) * each] for worker in range(work.workers)]
    several = replace(
        extraction(settings, folder, images=work.images), partition_size=work.partition_size, workers=0
    )
    one = replace(several, limit=work.images // work.workers)
    numbers, idle = count(), []

    def run(verb: ExtractSettings, shares: Sequence[list[int]]) -> float:
        steady = steady_state(
            _tasks(replace(verb, cache=str(folder / f"{next(numbers)}")), shares), len(shares)
        )
        if len(shares) > 1:
            idle.append(steady.idle)
        return steady.rate * work.partition_size

    contenders = {"one": partial(run, one, shares[:1]), "several": partial(run, several, shares)}
    runs = take_turns(contenders, settings.repeats)
    linear = [n / (work.workers * o) for n, o in zip(runs["several"], runs["one"], strict=True)]
    what = f"extract, {settings.backbone}, {work.workers} workers"
    return [
        Row(what=what, unit="images/s", ours=runs["several"], peer="1 worker", theirs=runs["one"]),
        Row(what=f"{what}: share of linear", unit="", ours=linear, goal=">= 0.9"),
        Row(what=f"{what}: idle between partitions", unit="", ours=idle, lower=True, goal="<= 0.02"),
        f"Every worker is tied to {each} core(s).",
        *REMARKS,
    ]


def _tasks(verb: ExtractSettings, shares: Sequence[list[int]]) -> list[Task]:
    """Extracts by a worker on each share of the cores; the tasks as the scheduler saw them."""
    threads = {name: str(len(shares[0])) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": threads}),
        LocalCluster(
            n_workers=len(shares), threads_per_worker=AT_ONCE, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        for worker, own in zip(client.scheduler_info()["workers"], shares, strict=True):
            client.run(_tie, own, workers=[worker])
        with get_task_stream(client) as stream:
            quietly(replace(verb, scheduler=cluster.scheduler_address))
        spans = [(task["worker"], part) for task in stream.data for part in task["startstops"]]
    return [
        Task(worker, part["start"], part["stop"]) for worker, part in spans if part["action"] == "compute"
    ]


def _tie(own: list[int]) -> None:
    """Keeps all threads of this process, and those that they start, on these cores."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), own)


def steady_state(tasks: Iterable[Task], workers: int) -> Steady:
    """From the end of the last worker's warm-up to the first worker's end of its last partition.

    A partition counts by the share of it that lies in this time.

    Raises:
        RegionSpotError: there is no such time: a worker got too little work.
    """
    by_worker: dict[str, list[Task]] = {}
    for task in sorted(tasks, key=lambda task: task.start):
        by_worker.setdefault(task.worker, []).append(task)
    begin = max(own[:WARM_UP][-1].stop for own in by_worker.values())
    end = min(own[-1].stop for own in by_worker.values())
    if len(by_worker) < workers or end <= begin:
        raise RegionSpotError(
            f"{len(by_worker)} of {workers} workers were at work at the same time.",
            "Several partitions for each.",
            "Give more images: --set workers.images=1000",
        )
    partitions = busy = 0.0
    for own in by_worker.values():
        reached = begin
        for task in own:  # one may begin before the last has committed its partition
            inside = max(0.0, min(task.stop, end) - max(task.start, begin))
            partitions += inside / (task.stop - task.start)
            busy += max(0.0, min(task.stop, end) - max(task.start, reached))
            reached = max(reached, task.stop)
    return Steady(rate=partitions / (end - begin), idle=1 - busy / (workers * (end - begin)))
