"""`rs-cache demo`: plan, extract, verify, train, evaluate on the built-in world, and a page that shows it.

Every step is the function that its verb calls: extractions and training continue where they were interrupted.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import console
from pipeline.evaluate.run import evaluate
from pipeline.extract import extract
from pipeline.inspection import verify
from pipeline.places import WORKPLACE, shipped
from pipeline.plan import dry_run
from pipeline.report_figures import figures, pick_images, see
from pipeline.report_tables import group_tables, overall_tables, protocol_sections
from pipeline.reproduce.rows import PAPER, load_table
from pipeline.train import train
from pipeline.verbs.demo import DemoSettings
from pipeline.verbs.evaluate import EvalSettings
from pipeline.verbs.extract import ExtractSettings
from pipeline.verbs.train import TrainSettings
from regionspot_cache.config import load_config
from regionspot_cache.datasets import load_dataset
from regionspot_cache.extraction.devices import resolve_device
from regionspot_cache.recognition import ClipCrops
from regionspot_cache.recognition.predictor import RegionPredictor
from regionspot_cache.reporting.page import Curve, KeyValues, ReportSection, Table, Text, write_report

METHODS = ("regionspot", "clip-box", "clip-mask")


@dataclass(frozen=True, kw_only=True)
class DemoFacts:
    """What the steps of the demo returned."""

    caches: list[dict[str, Any]]
    """Summaries of the extractions."""
    run: Path
    """Folder of the trained head."""
    gt: Mapping[str, Any]
    """Content of the two metrics.json."""
    rpn: Mapping[str, Any]
    seconds: Mapping[str, float]
    """By step, of this run; steps that were already done are short."""


def write_demo_report(path: Path, facts: DemoFacts, settings: DemoSettings) -> None:
    """Writes the page."""
    steps = [json.loads(line) for line in (facts.run / "metrics.jsonl").read_text().splitlines()]
    sections: list[ReportSection] = [
        Text(title="Recognition of ground-truth boxes", body=INTRODUCTION),
        *overall_tables(facts.gt["results"]),
        *group_tables(facts.gt["results"]),
        _paper_table(),
        Text(title="Recognition of proposals"),
        *overall_tables(facts.rpn["results"]),
        *group_tables(facts.rpn["results"]),
        Text(title="Training"),
        _curve(steps),
        Text(title="What the head sees", body=ATTENTION),
        *_pictures(facts, settings),
        *protocol_sections(facts.gt["results"], "Protocol of ground-truth boxes"),
        *protocol_sections(facts.rpn["results"], "Protocol of proposals"),
        KeyValues(title="Sizes", items=_sizes(facts)),
        KeyValues(title="Seconds by step", items={k: f"{v:.1f}" for k, v in facts.seconds.items()}),
        KeyValues(title="Speeds", items=_speeds(facts, steps)),
    ]
    write_report(path, "RegionSpot from the cache", "The built-in world, from images to names", sections)


ATTENTION_OF = 1  # boxes of an image
FIRST_STEPS = 100  # their loss is a hundred times larger and would flatten the rest of the curve
INTRODUCTION = (
    "Every box gets a score for every class; the best 300 of an image count. Novel classes never had a box "
    "in training, though the small CLIP has seen their names in captions. clip-box and clip-mask run CLIP on "
    "a crop of every box and are trained on no boxes at all. Chance is 0.3 % top-1."
)
ATTENTION = (
    "The picture with its true names, and what the methods say; RegionSpot's names on SAM's masks; then the "
    "cross-attention of one box over the patches of the image in every layer of the head."
)


def _paper_table() -> Table:
    published = [row for row in load_table("table1").rows.values() if row.paper and row.source == PAPER]
    aps = ("APr", "APc", "APf", "AP")
    rows = [[r.row, r.paper_data, r.paper_boxes, *(r.paper.get(ap) for ap in aps)] for r in published]
    return Table(
        caption="For comparison of the trend, not of the numbers: the paper's table 1, LVIS val",
        columns=["method", "training data", "boxes", *aps],
        rows=rows,
        note=f"{PAPER}. Other images, other classes and networks of another size than the demo's.",
    )


def _curve(steps: list[dict[str, Any]]) -> Curve:
    steps = [step for step in steps if step["step"] > FIRST_STEPS] or steps
    return Curve(
        title=f"Loss of the head after the first {FIRST_STEPS} steps",
        xs=[step["step"] for step in steps],
        series={"focal loss": [step["loss"] for step in steps]},
        x_label="step",
        y_label="loss of an image",
    )


def _sizes(facts: DemoFacts) -> dict[str, str]:
    sizes = {
        cache["cache"]: f"{cache['images']} images, {cache['boxes']} boxes, {console.size(cache['bytes'])}"
        f" ({console.size(cache['bytes'] / cache['images'])} an image)"
        for cache in facts.caches
    }
    return {**sizes, "trained head": console.size((facts.run / "model.safetensors").stat().st_size)}


def _speeds(facts: DemoFacts, steps: list[dict[str, Any]]) -> dict[str, str]:
    rate, samples = (
        np.median([step[f"{what}_per_second"] for step in steps]) for what in ("steps", "samples")
    )
    extraction = {
        f"extraction of {Path(cache['cache']).name}": f"{cache['images_per_second']:.1f} images/s"
        for cache in facts.caches
        if cache.get("images_per_second")
    }
    return {"training, median": f"{rate:.1f} steps/s, {samples:.0f} images/s", **extraction}


def _pictures(facts: DemoFacts, settings: DemoSettings) -> list[ReportSection]:
    predictor = RegionPredictor.from_pretrained(facts.run, device=resolve_device(settings.device))
    dataset = load_dataset("shapes:val", data_root=WORKPLACE / "datasets")
    names, text = dataset.class_names, predictor.embed(dataset.class_names)
    clip = predictor.backbone.text
    methods = (predictor.method, ClipCrops(clip, masked=False), ClipCrops(clip, masked=True))
    shown: list[ReportSection] = []
    for record in map(dataset.__getitem__, pick_images(dataset, dataset.seed)[: settings.pictures].tolist()):
        inputs = predictor.set_image(dataset.image_root / record.file_name).inputs(record.boxes)
        scores = {method.name: method.probabilities(inputs, text) for method in methods}
        truth = [names[label] for label in record.labels]
        scene = see(f"Image {record.image_id}", inputs, scores, names, predictor.method, truth=truth)
        shown += figures(scene, attention_of=ATTENTION_OF)
    return shown


def demo(settings: DemoSettings) -> Path:
    """Runs everything and returns the path of the report."""
    started = time.monotonic()
    seconds: dict[str, float] = {}

    def step(title: str, verb: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        console.say(f"== {title}")
        start = time.monotonic()
        result = verb(*arguments, **options)
        seconds[title] = seconds.get(title, 0.0) + time.monotonic() - start
        return result

    def evaluated(title: str, proposals: str, **options: Any) -> dict[str, Any]:
        out = settings.out / f"eval-{proposals}"
        # No pictures: the demo's page has its own.
        common = {
            "checkpoints": (training.out,),
            "methods": METHODS,
            "pictures": 0,
            "device": settings.device,
        }
        step(title, evaluate, EvalSettings(proposals=proposals, out=out, **common, **options))
        return json.loads((out / "metrics.json").read_text())

    common: dict[str, Any] = {"workers": settings.workers, "device": settings.device}
    train_set = ExtractSettings(limit=settings.train_images, **common)
    val_set = ExtractSettings(dataset="shapes:val", limit=settings.val_images, **common)
    training = load_config(TrainSettings, shipped("train/shapes.yaml"), device=settings.device)
    step("1/6 plan", dry_run, train_set)
    caches = [
        step("2/6 extract the training images", extract, train_set),
        step("2/6 extract the validation images", extract, val_set),
    ]
    for cache in caches:
        step("3/6 verify", verify, cache["cache"], full=True)
    step("4/6 train the head", train, training)
    rpn = {"limit": settings.rpn_images, "top_n": settings.rpn_top_n}
    facts = DemoFacts(
        caches=caches,
        run=training.out,
        gt=evaluated("5/6 evaluate on ground-truth boxes", "gt", limit=settings.gt_images),
        rpn=evaluated("5/6 evaluate on RPN boxes", "rpn", **rpn),
        seconds=seconds,
    )
    report = settings.out / "report.html"
    step("6/6 report", write_demo_report, report, facts, settings)
    console.say(f"Done in {console.clock(time.monotonic() - started)}.")
    console.result({}, f"Report: {report}")
    return report
