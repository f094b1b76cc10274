"""The demo's HTML page: what was done, how well it works beside the paper's table, and pictures."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import console
from pipeline.places import WORKPLACE
from pipeline.report_figures import figures, pick_images, probabilities, see
from pipeline.report_tables import group_tables, overall_tables, protocol_sections
from pipeline.reproduce.rows import PAPER, load_table
from pipeline.verbs.demo import DemoSettings
from regionspot_cache.datasets import load_dataset
from regionspot_cache.extraction.devices import resolve_device
from regionspot_cache.recognition import ClipCrops
from regionspot_cache.recognition.predictor import RegionPredictor
from regionspot_cache.reporting.page import Curve, KeyValues, ReportSection, Table, Text, write_report


@dataclass(frozen=True, kw_only=True)
class DemoFacts:
    """What the steps of the demo returned.

    Attributes:
        caches: summaries of the extractions.
        run: folder of the trained head.
        gt, rpn: content of the two metrics.json.
        seconds: by step, of this run; steps that were already done are short.
    """

    caches: list[dict[str, Any]]
    run: Path
    gt: Mapping[str, Any]
    rpn: Mapping[str, Any]
    seconds: Mapping[str, float]


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
    methods = (predictor.method, ClipCrops(masked=False), ClipCrops(masked=True))
    shown: list[ReportSection] = []
    for record in map(dataset.__getitem__, pick_images(dataset, dataset.seed)[: settings.pictures].tolist()):
        inputs = predictor.set_image(dataset.image_root / record.file_name).inputs(record.boxes)
        scores = {method.name: probabilities(method, inputs, text) for method in methods}
        truth = [names[label] for label in record.labels]
        scene = see(f"Image {record.image_id}", inputs, scores, names, predictor.method, truth=truth)
        shown += figures(scene, attention_of=ATTENTION_OF)
    return shown
