"""When each worker did what: partitions with their times, and the state in which all workers are at work."""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.partition import ExtractJob, encoders_of, extract_partition, resolve_device
from regionspot_cache.errors import RegionSpotError

PATIENCE = 300.0  # seconds for all workers to load the networks


@dataclass(frozen=True, kw_only=True)
class Span:
    """One partition on one worker, in seconds of the machine's clock."""

    worker: int
    start: float
    stop: float
    images: int


@dataclass(frozen=True, kw_only=True)
class TimedPartitions:
    """`extract_partition` on a worker's own cores, and when it ran.

    Attributes:
        shares: cores of each worker.
        meeting: an empty folder, where workers wait for each other before their first partition.
    """

    job: ExtractJob
    shares: Sequence[Sequence[int]]
    meeting: Path

    def __call__(self, p: int) -> Span:
        from distributed import get_worker

        worker = int(get_worker().name)
        if not (self.meeting / str(worker)).exists():
            self._begin(worker)
        start = time.time()
        report = extract_partition(self.job, p)
        return Span(worker=worker, start=start, stop=time.time(), images=report.images)

    def _begin(self, worker: int) -> None:
        """One worker alone must not use more cores than one of several, or there is nothing to compare."""
        import torch

        os.sched_setaffinity(0, self.shares[worker])
        torch.set_num_threads(len(self.shares[worker]))
        encoders_of(self.job.spec, self.job.halves, resolve_device(self.job.device))
        (self.meeting / str(worker)).touch()
        limit = time.monotonic() + PATIENCE
        while len(list(self.meeting.iterdir())) < len(self.shares):
            if time.monotonic() > limit:
                raise RegionSpotError(
                    f"Not all {len(self.shares)} workers have begun after {PATIENCE:.0f} s.",
                    "Workers that load the networks at the same time.",
                    "Give fewer: --set workers.workers=2",
                )
            time.sleep(0.01)


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
