"""One evaluation in a process of its own. Imports neither torch nor settings: its peak memory is measured."""

import resource
import sys
import time
from dataclasses import dataclass

from pipeline.bench.evaluate_data import random_problem
from pipeline.bench.machine import proc_field
from regionspot_cache.evaluation import evaluate


@dataclass(frozen=True, kw_only=True)
class EvaluateRun:
    """What one process reports."""

    seconds: float
    gigabytes: float
    metrics: dict[str, float]


def evaluate_once(images: int, detections: int, categories: int, *, fast: bool) -> EvaluateRun:
    """Makes the problem, then times its evaluation, ours (`fast`) or the lvis package's."""
    annotations, found = random_problem(images, detections, categories)
    start = time.perf_counter()
    results = evaluate(found, annotations, iou_types=["bbox"], fast=fast)
    seconds = time.perf_counter() - start
    return EvaluateRun(seconds=seconds, gigabytes=peak_bytes() / 1e9, metrics=dict(results["bbox"].metrics))


def peak_bytes() -> int:
    """Peak memory of this process, on Linux its VmHWM: ru_maxrss counts the parent's memory too."""
    if kibibytes := proc_field("/proc/self/status", "VmHWM"):
        return int(kibibytes.split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
