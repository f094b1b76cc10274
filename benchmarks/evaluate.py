"""LVIS average precision of random detections: ours and other evaluators, time and peak memory.

At full size also what people run: the verb on a results file of boxes and masks, reading included.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks.evaluate_data import write_problem
from benchmarks.evaluate_once import EVALUATORS, Scored, score_problem, score_with_the_verb
from benchmarks.harness import OURS, Findings, Row, against, in_new_process, take_turns
from benchmarks.settings import Evaluate, Settings

REFERENCE = "lvis package"
NEEDS = {"faster-coco-eval": "faster_coco_eval"}  # what people may lack
LVIS_VAL = 19_809  # images


def measure(settings: Settings, folder: Path) -> Findings:
    """Each run is a process of its own, so that its peak memory is its own."""
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
    return [*found, "Peak memory is of the whole process: interpreter, annotations, detections included."]


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
