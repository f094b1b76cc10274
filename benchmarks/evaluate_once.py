"""One evaluation in a process of its own. Imports no torch before it must: peak memory is measured."""

import contextlib
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.evaluate_data import random_problem
from benchmarks.harness import OURS, peak_gigabytes
from regionspot_cache.errors import RegionSpotError
from regionspot_cache.evaluation import Detections, evaluate
from regionspot_cache.evaluation.results_file import image_entries

OUR_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
THEIR_NAMES = ("AP_all", "AP_50", "AP_75", "AP_small", "AP_medium", "AP_large", "APr", "APc", "APf")


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What one process reports."""

    seconds: float
    gigabytes: float
    metrics: Mapping[str, float]


def score_problem(evaluator: str, images: int, detections: int, categories: int) -> Scored:
    """Makes the problem, then times its evaluation by one of `EVALUATORS`."""
    annotations, found = random_problem(images, detections, categories)
    start = time.perf_counter()
    metrics = EVALUATORS[evaluator](annotations, found)
    return Scored(seconds=time.perf_counter() - start, gigabytes=peak_gigabytes(), metrics=metrics)


def score_with_the_verb(truth: Path, results: Path, out: Path, ap: str) -> Scored:
    """`rs-cache eval` of a results file."""
    from pipeline.cli import run

    command = ["eval", "--dataset", str(truth), "--method", f"results:{results}", "--out", str(out)]
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        code = run([*command, "--ap", ap])
    if code:
        raise RegionSpotError(f"rs-cache {' '.join(command)} ended with code {code}.", "Code 0.")
    return Scored(seconds=time.perf_counter() - start, gigabytes=peak_gigabytes(), metrics={})


def _by_this_project(annotations: dict[str, Any], found: Detections, *, fast: bool) -> Mapping[str, float]:
    return evaluate(found, annotations, iou_types=["bbox"], fast=fast)["bbox"].metrics


def _by_faster_coco_eval(annotations: dict[str, Any], found: Detections) -> Mapping[str, float]:
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(annotations)
    entries = [entry for i in range(len(found.image_ids)) for entry in image_entries(found, i, "bbox")]
    other = COCOeval_faster(truth, truth.loadRes(entries), "bbox", lvis_style=True)
    other.params.maxDets = [300]
    with contextlib.redirect_stdout(io.StringIO()):
        other.run()
    figures = other.stats_as_dict
    return {ours: float(figures[theirs]) for ours, theirs in zip(OUR_NAMES, THEIR_NAMES, strict=True)}


EVALUATORS: dict[str, Callable[[dict[str, Any], Detections], Mapping[str, float]]] = {
    OURS: partial(_by_this_project, fast=True),
    "lvis package": partial(_by_this_project, fast=False),
    "faster-coco-eval": _by_faster_coco_eval,
}
