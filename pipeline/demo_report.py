"""The demo's HTML page: what was done, how well it works beside the paper's table, and pictures."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import console
from pipeline.partition import resolve_device
from pipeline.places import WORKPLACE
from pipeline.report_figures import Seen, figures, patch_attention, pick_images, top_names
from pipeline.report_tables import group_tables, overall_tables, protocol_sections
from pipeline.reproduce.rows import PAPER, load_table
from pipeline.settings import DemoSettings
from regionspot_cache.datasets import DetectionDataset, ImageRecord, load_dataset
from regionspot_cache.datasets.images import read_image
from regionspot_cache.recognition import ClipCrops
from regionspot_cache.recognition.predictor import RegionPredictor
from regionspot_cache.reporting.page import Curve, Figure, KeyValues, ReportSection, Table, Text, write_report


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
    path.parent.mkdir(parents=True, exist_ok=True)
    sections: list[ReportSection] = [
        Text(title="Recognition of ground-truth boxes", body=INTRODUCTION),
        *overall_tables(facts.gt["results"]),
        *group_tables(facts.gt["results"]),
        _paper_table(),
        Text(title="Recognition of proposals"),
        *overall_tables(facts.rpn["results"]),
        *group_tables(facts.rpn["results"]),
        Text(title="Training"),
        _curve(facts.run),
        Text(title="What the head sees", body=ATTENTION),
        *_pictures(facts, settings),
        *protocol_sections(facts.gt["results"], "Protocol of ground-truth boxes"),
        *protocol_sections(facts.rpn["results"], "Protocol of proposals"),
        KeyValues(title="Sizes", items=_sizes(facts)),
        KeyValues(title="Seconds by step", items={k: f"{v:.1f}" for k, v in facts.seconds.items()}),
        KeyValues(title="Speeds", items=_speeds(facts)),
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
    "cross-attention of one box over the patches of CLIP's map in every layer of the head."
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


def _steps(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _curve(run: Path) -> Curve:
    steps = _steps(run)
    steps = [step for step in steps if step["step"] > FIRST_STEPS] or steps
    return Curve(
        title=f"Loss of the head after the first {FIRST_STEPS} steps",
        xs=[step["step"] for step in steps],
        series={"focal loss": [step["loss"] for step in steps]},
        x_label="step",
        y_label="loss of an image",
    )


def _sizes(facts: DemoFacts) -> dict[str, Any]:
    head = (facts.run / "model.safetensors").stat().st_size
    sizes = {
        cache["cache"]: f"{cache['images']} images, {cache['boxes']} boxes, {console.size(cache['bytes'])}"
        f" ({console.size(cache['bytes'] / cache['images'])} an image)"
        for cache in facts.caches
    }
    return {**sizes, "trained head": console.size(head)}


def _speeds(facts: DemoFacts) -> dict[str, Any]:
    rates = [step["steps_per_second"] for step in _steps(facts.run)]
    samples = [step["samples_per_second"] for step in _steps(facts.run)]
    speeds: dict[str, Any] = {
        "training, median": f"{np.median(rates):.1f} steps/s, {np.median(samples):.0f} images/s"
    }
    for cache in facts.caches:
        if cache.get("images_per_second"):
            speeds[f"extraction of {Path(cache['cache']).name}"] = (
                f"{cache['images_per_second']:.1f} images/s"
            )
    return speeds


def _pictures(facts: DemoFacts, settings: DemoSettings) -> list[Figure]:
    predictor = RegionPredictor.from_pretrained(facts.run, device=resolve_device(settings.device))
    dataset = load_dataset("shapes:val", data_root=WORKPLACE / "datasets")
    text = predictor.embed(dataset.class_names)
    chosen = pick_images(dataset, dataset.seed)[: settings.pictures].tolist()
    return [
        figure
        for i in chosen
        for figure in figures(_see(predictor, dataset, dataset[i], text), attention_of=ATTENTION_OF)
    ]


def _see(predictor: RegionPredictor, dataset: DetectionDataset, record: ImageRecord, text: Any) -> Seen:
    predictor.set_image(read_image(dataset.image_root / record.file_name))
    inputs = predictor.inputs(record.boxes)
    methods = (predictor.method, ClipCrops(masked=False), ClipCrops(masked=True))
    return Seen(
        title=f"Image {record.image_id}",
        image=inputs.image,
        boxes=inputs.boxes,
        named={m.name: top_names(m.logits(inputs, text), dataset.class_names) for m in methods},
        truth=[dataset.class_names[label] for label in record.labels],
        masks=inputs.masks[0],
        attention=patch_attention(predictor.method, inputs),
    )
