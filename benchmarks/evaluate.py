"""LVIS average precision of random detections: ours and other evaluators, time and peak memory.

At full size also what people run: the verb on a results file of boxes and masks, reading included. Every
evaluation is a process of its own, which imports no torch before it must: its memory is measured.
"""

import contextlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import (
    OURS,
    Findings,
    Row,
    against,
    in_new_process,
    memory_of_all,
    peak_gigabytes,
    take_turns,
)
from benchmarks.settings import Evaluate, Settings
from regionspot_cache.errors import RegionSpotError
from regionspot_cache.evaluation import Detections, evaluate
from regionspot_cache.evaluation.results_file import image_entries
from regionspot_cache.evaluation.rle import annotation_rle
from regionspot_cache.json_stream import write_json_array

REFERENCE = "lvis package"
NEEDS = {"faster-coco-eval": "faster_coco_eval", "hotcoco": "hotcoco"}  # what people may lack
LVIS_VAL = 19_809  # images
OUR_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
THEIR_NAMES = ("AP_all", "AP_50", "AP_75", "AP_small", "AP_medium", "AP_large", "APr", "APc", "APf")
BOXES, NEGATIVES = 12, 8  # of an image, on average; categories known to be absent
WIDTH, HEIGHT = 640, 480
VERTICES = 32  # of an outline


def random_problem(images: int, detections: int, categories: int) -> tuple[dict[str, Any], Detections]:
    """Annotations and detections; half of the detections lie near an annotated box."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, categories + 1)
    weights /= weights.sum()
    counts = rng.integers(0, 2 * BOXES + 1, images)
    ends = np.cumsum(counts)
    owners = np.repeat(np.arange(images), counts)
    boxes, labels = _random_boxes(rng, len(owners)), rng.choice(categories, len(owners), p=weights)
    absent = rng.choice(categories, (images, NEGATIVES), p=weights)
    present = [set((labels[end - count : end] + 1).tolist()) for end, count in zip(ends, counts, strict=True)]
    annotations = {
        "images": [
            {
                "id": i + 1,
                "file_name": f"{i + 1}.jpg",
                "width": WIDTH,
                "height": HEIGHT,
                "neg_category_ids": sorted({c + 1 for c in absent[i].tolist()} - present[i]),
                "not_exhaustive_category_ids": sorted(present[i])[:1],
            }
            for i in range(images)
        ],
        "annotations": [
            {"id": n, "image_id": owner, "category_id": label, "bbox": box, "area": box[2] * box[3]}
            for n, owner, label, box in zip(
                range(1, len(boxes) + 1),
                (owners + 1).tolist(),
                (labels + 1).tolist(),
                boxes.tolist(),
                strict=True,
            )
        ],
        "categories": [
            {"id": c + 1, "name": f"class {c}", "frequency": "fcr"[c % 3]} for c in range(categories)
        ],
    }
    image = np.repeat(np.arange(images), detections)
    found, named = _random_boxes(rng, len(image)), rng.integers(0, categories, len(image))
    near = np.flatnonzero((rng.random(len(image)) < 0.5) & (counts[image] > 0))
    source = (ends - counts)[image[near]] + (rng.random(len(near)) * counts[image[near]]).astype(np.int64)
    found[near] = boxes[source] + rng.normal(0, 0.06, (len(near), 4)) * boxes[source][:, [2, 3, 2, 3]]
    right = rng.random(len(near)) < 0.7
    named[near[right]] = labels[source[right]]
    found[:, 2:] = found[:, :2] + np.maximum(found[:, 2:], 1)
    return annotations, Detections(
        image_ids=tuple(range(1, images + 1)),
        offsets=np.arange(0, len(image) + 1, detections, dtype=np.int64),
        category_ids=(named + 1).astype(np.int32),
        scores=rng.random(len(image), np.float32),
        box_index=np.arange(len(image), dtype=np.int32),
        boxes=found.astype(np.float32),
        masks=None,
    )


def _random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """xywh float64 [count, 4], sides from 8 to 400 pixels, so that all area ranges occur."""
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    return np.concatenate([corners, sides], axis=1).round(2)


def write_problem(work: Evaluate, folder: Path) -> tuple[Path, Path]:
    """Writes annotations with outlines and detections with boxes and masks, all of them ellipses."""
    content, found = random_problem(work.images, work.detections, work.categories)
    boxes = np.array([annotation["bbox"] for annotation in content["annotations"]])
    boxes[:, 2:] += boxes[:, :2]
    for annotation, outline in zip(content["annotations"], _outlines(boxes), strict=True):
        annotation["segmentation"] = [outline]
    truth, results = folder / "val.json", folder / "results.json"
    truth.write_text(json.dumps(content))
    del content
    write_json_array(results, (_entries(found, image) for image in range(work.images)))
    return truth, results


def _outlines(boxes: np.ndarray) -> list[list[float]]:
    """The ellipses in boxes [n,4] xyxy, as polygons."""
    turn = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    circle = (1 + np.stack([np.cos(turn), np.sin(turn)], axis=1)) / 2  # [V,2]
    points = boxes[:, None, :2] + circle * (boxes[:, 2:] - boxes[:, :2])[:, None]
    return points.round(2).reshape(len(boxes), -1).tolist()


def _entries(found: Detections, image: int) -> list[dict]:
    boxes = found.boxes[found.box_index[found.rows(image)]].astype(np.float64)
    entries = image_entries(found, image, "bbox")
    for entry, outline in zip(entries, _outlines(boxes), strict=True):
        rle = annotation_rle([outline], HEIGHT, WIDTH)
        entry["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    return entries


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
    with memory_of_all() as peak, contextlib.redirect_stdout(io.StringIO()):
        code = run([*command, "--ap", ap])
    if code:
        raise RegionSpotError(f"rs-cache {' '.join(command)} ended with code {code}.", "Code 0.")
    return Scored(seconds=time.perf_counter() - start, gigabytes=peak(), metrics={})


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


def _by_hotcoco(annotations: dict[str, Any], found: Detections) -> Mapping[str, float]:
    hotcoco: Any = import_module("hotcoco")
    truth = hotcoco.COCO(annotations)
    # Columns instead of a dict a detection: its quickest way in.
    images = np.repeat(np.array(found.image_ids), np.diff(found.offsets))
    boxes = found.boxes[found.box_index].astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    columns = np.column_stack([images, boxes, found.scores, found.category_ids])
    other = hotcoco.COCOeval(truth, truth.load_res(columns), "bbox", lvis_style=True)
    with contextlib.redirect_stdout(io.StringIO()):
        other.run()
    figures = other.get_results()
    return {name: float(figures[name]) for name in OUR_NAMES}


EVALUATORS: dict[str, Callable[[dict[str, Any], Detections], Mapping[str, float]]] = {
    OURS: partial(_by_this_project, fast=True),
    "lvis package": partial(_by_this_project, fast=False),
    "faster-coco-eval": _by_faster_coco_eval,
    "hotcoco": _by_hotcoco,
}


def measure(settings: Settings, folder: Path) -> Findings:
    """Every evaluator in turns, and at full size the verb."""
    work = replace(settings.evaluate, images=LVIS_VAL) if settings.full else settings.evaluate
    absent = [name for name, module in NEEDS.items() if find_spec(module) is None]
    runs: dict[str, list[Scored]] = {name: [] for name in EVALUATORS if name not in absent}

    def contender(name: str) -> Callable[[], float]:
        def once() -> float:
            arguments = (work.images, work.detections, work.categories)
            runs[name].append(in_new_process(score_problem, name, *arguments))
            return runs[name][-1].seconds

        return once

    take_turns({name: contender(name) for name in runs}, 1 if settings.full else settings.repeats)
    at_full = settings.full and work.detections == 300
    what = f"LVIS AP, {work.images} images x {work.detections} detections"
    found: Findings = []
    for unit, of, goal in (("s", "seconds", "<= 60"), ("GB", "gigabytes", "<= 4")):
        values = {name: [getattr(run, of) for run in some] for name, some in runs.items()}
        measured = what if unit == "s" else f"{what}, peak memory"
        found += against(measured, unit, values, lower=True, goals={REFERENCE: goal} if at_full else {})
    found += [_difference(runs[OURS][0], some[0], name) for name, some in runs.items() if name != OURS]
    found += [f"{name}: not installed, not measured." for name in absent]
    if settings.full:
        found += _of_a_file(work, folder)
    else:
        found.append(f"The size of LVIS val ({LVIS_VAL} images) is not measured here: --full.")
    return [
        *found,
        "Peak memory is of all processes together: interpreter, annotations, detections included.",
    ]


def _difference(ours: Scored, theirs: Scored, peer: str) -> Row:
    worst = max(abs(ours.metrics[name] - value) for name, value in theirs.metrics.items())
    what = f"largest difference of {len(theirs.metrics)} metrics from {peer}"
    return Row(what=what, unit="", ours=(worst,), lower=True, goal="<= 1e-4")


def _of_a_file(work: Evaluate, folder: Path) -> Iterator[Row]:
    truth, results = write_problem(work, folder)
    for ap in ("standard", "fixed"):
        size = results.stat().st_size / 1e9
        what = f"rs-cache eval of a results file of {size:.1f} GB, {ap} AP of boxes and masks"
        run = in_new_process(score_with_the_verb, truth, results, folder / ap, ap)
        yield Row(what=what, unit="s", ours=(run.seconds,), lower=True)
        yield Row(what=f"{what}, peak memory", unit="GB", ours=(run.gigabytes,), lower=True, goal="<= 4")
