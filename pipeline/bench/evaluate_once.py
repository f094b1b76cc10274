"""One evaluation in a process of its own. Imports neither torch nor settings: its peak memory is measured."""

import resource
import sys
import time
from dataclasses import dataclass

from pipeline.bench.evaluate_data import random_problem
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
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return EvaluateRun(seconds=seconds, gigabytes=peak / 1e9, metrics=dict(results["bbox"].metrics))
