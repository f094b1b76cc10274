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
from pipeline.predict import patch_attention
from pipeline.settings import DemoSettings
from regionspot_cache.datasets import DetectionDataset, ImageRecord, load_dataset
from regionspot_cache.images import read_image
from regionspot_cache.predictor import RegionPredictor
from regionspot_cache.recognition import ClipCrops
from regionspot_cache.reporting.drawing import attention_grid, compare_predictions, draw_regions
from regionspot_cache.reporting.page import Curve, Figure, KeyValues, ReportSection, Table, Text, write_report
from regionspot_cache.reporting.paper import PAPER_SOURCE, PAPER_TABLE1

AP_COLUMNS = {
    "AP": "AP",
    "AP novel": "AP novel",
    "AP base": "AP base",
    "APr": "APr",
    "APc": "APc",
    "APf": "APf",
}
TOP_COLUMNS = {"top1": "top-1", "top1 novel": "top-1 novel", "top1 base": "top-1 base"}


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
        _table(
            "Ground-truth boxes, validation split", facts.gt, {**AP_COLUMNS, "mask": "mask AP"}, TOP_COLUMNS
        ),
        _paper_table(),
        Text(title="Recognition of proposals"),
        _table(
            "RPN boxes, a sample of the validation split", facts.rpn, {**AP_COLUMNS, "mask": "mask AP"}, {}
        ),
        _recall(facts.rpn),
        Text(title="Training"),
        _curve(facts.run),
        Text(title="What the head sees", body=ATTENTION),
        *_pictures(facts, settings),
        KeyValues(title="Sizes", items=_sizes(facts)),
        KeyValues(title="Seconds by step", items={k: f"{v:.1f}" for k, v in facts.seconds.items()}),
        KeyValues(title="Speeds", items=_speeds(facts)),
    ]
    write_report(path, "RegionSpot from the cache", "The built-in world, from images to names", sections)


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


def _table(caption: str, metrics: Mapping[str, Any], ap: dict[str, str], top: dict[str, str]) -> Table:
    rows = []
    for result in metrics["results"]:
        box, found = result["metrics"]["box"], result["metrics"]
        cells = [_percent(found.get("mask", {}).get("AP") if key == "mask" else box.get(key)) for key in ap]
        cells += [_percent(found.get("accuracy", {}).get(key)) for key in top]
        rows.append([result["protocol"]["method"].split(" on ")[0], *cells])
    protocol = metrics["results"][0]["protocol"]
    note = ", ".join(f"{key}: {value}" for key, value in protocol.items() if key != "method")
    return Table(caption=caption, columns=["method", *ap.values(), *top.values()], rows=rows, note=note)


def _paper_table() -> Table:
    rows = [[r.method, r.training_data, r.proposals, r.ap_r, r.ap_c, r.ap_f, r.ap] for r in PAPER_TABLE1]
    return Table(
        caption="For comparison of the trend, not of the numbers: the paper's table 1, LVIS val",
        columns=["method", "training data", "boxes", "APr", "APc", "APf", "AP"],
        rows=rows,
        note=f"{PAPER_SOURCE}. Other images, other classes and networks of another size than the demo's.",
    )


def _recall(metrics: Mapping[str, Any]) -> Table:
    recall = metrics["results"][0]["metrics"]["recall"]
    names = [name for name in recall if name.startswith(("AR@", "R50@"))]
    return Table(
        caption="Recall of the proposals, class-agnostic",
        columns=["proposals", *names],
        rows=[["RPN", *(_percent(recall[name]) for name in names)]],
        note=metrics["results"][0]["protocol"]["proposals"],
    )


def _percent(value: float | None) -> float | None:
    return None if value is None or value < 0 else 100 * value


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
    figures = []
    for record in _few_boxes(dataset, settings.pictures):
        image = read_image(dataset.image_root / record.file_name)
        predictor.set_image(image)
        figures += _figures(predictor, dataset, record, image, text)
    return figures


def _few_boxes(dataset: DetectionDataset, count: int) -> list[ImageRecord]:
    """Images with 4 to 7 boxes of which one is of a novel class: enough to see, not too many to read."""
    chosen = []
    for record in dataset:
        novel = any(dataset.class_novel[label] for label in record.labels)
        if novel and 4 <= len(record.boxes) <= 7:
            chosen.append(record)
        if len(chosen) == count:
            break
    return chosen


def _figures(
    predictor: RegionPredictor, dataset: DetectionDataset, record: ImageRecord, image: Any, text: Any
) -> list[Figure]:
    inputs = predictor.inputs(record.boxes)
    named = {}
    for method in (predictor.method, ClipCrops(masked=False), ClipCrops(masked=True)):
        probabilities = method.logits(inputs, text).softmax(-1).cpu().numpy()
        best = probabilities.argmax(1)
        scores = probabilities[np.arange(len(best)), best]
        named[method.name] = ([dataset.class_names[i] for i in best], scores)
    truth = [dataset.class_names[i] for i in record.labels]
    names, scores = named["regionspot"]
    masks = draw_regions(image, record.boxes, names, scores, inputs.masks[0])
    largest = int(np.argmax(np.prod(record.boxes[:, 2:] - record.boxes[:, :2], axis=1)))
    grid = attention_grid(
        image, record.boxes[largest], patch_attention(predictor, inputs)[:, largest], truth[largest]
    )
    return [
        Figure(
            image=compare_predictions(image, record.boxes, named, truth),
            caption=f"Image {record.image_id}: true names, and those of each method",
            alt=f"Boxes of image {record.image_id} with the names that each method gives them",
        ),
        Figure(
            image=masks,
            caption="RegionSpot's names and scores on SAM's masks",
            alt=f"Masks of the boxes of image {record.image_id} with names and scores",
        ),
        Figure(
            image=grid,
            caption=f"Cross-attention of the {truth[largest]}, layer by layer",
            alt=f"Heat map over image {record.image_id} for one box in each layer",
        ),
    ]
