"""`rs-cache predict`: names for the regions of one image, as text or JSON, as pictures and as a page."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import console
from pipeline.report_figures import figures, see
from pipeline.verbs.predict import PredictSettings
from regionspot_cache.backbones import load_proposer
from regionspot_cache.errors import InputError
from regionspot_cache.extraction.devices import resolve_device
from regionspot_cache.recognition import ClipCrops
from regionspot_cache.recognition.examples import Examples
from regionspot_cache.recognition.prediction import Prediction
from regionspot_cache.recognition.predictor import RegionPredictor
from regionspot_cache.reporting.drawing import attention, comparison, regions, sheet
from regionspot_cache.reporting.page import Cell, KeyValues, Text, write_report
from regionspot_cache.reporting.scene import Scene

PICTURE_SIDE, COLUMNS = 1024, 3
MAX_ATTENTION = 6  # boxes in the attention picture
PAGE_ATTENTION = 20  # boxes whose attention a page shows
RUNNERS_UP = 2
NO_BREAK = "\N{NO-BREAK SPACE}"


def predict(
    settings: PredictSettings,
    boxes: NDArray[np.float32] | None,
    classes: Sequence[str] | None,
    *,
    as_json: bool = False,
) -> Prediction:
    """Names boxes, by default those that the RPN proposes, and writes the pictures and the page."""
    predictor = RegionPredictor.from_pretrained(
        settings.checkpoint, backbone=settings.backbone, device=resolve_device(settings.device)
    )
    predictor.set_image(settings.image)
    if boxes is None:
        proposer = load_proposer(predictor.backbone, console.fetching)
        boxes = predictor.inputs(np.zeros((0, 4))).proposals(proposer)[0][: settings.top]
    examples = embedded(predictor, settings.examples) if settings.examples else None
    prediction = predictor.predict(boxes, classes, examples=examples)
    scene = seen(predictor, prediction, settings)
    pictures = save_pictures(scene, settings.out or Path(f"{settings.image.stem}-regions.png"))
    facts: dict[str, Any] = {
        "image": str(settings.image),
        "regions": [_region(scene, i) for i in range(len(prediction.boxes))],
        "pictures": [str(path) for path in pictures],
    }
    if settings.report:
        write_page(settings.report, scene, prediction, settings)
        facts["report"] = str(settings.report)
    written = [*facts["pictures"], *([facts["report"]] if settings.report else [])]
    text = "\n".join([*map(line_of, facts["regions"]), *written])
    console.result(facts, text, as_json=as_json)
    return prediction


def embedded(predictor: RegionPredictor, source: Path) -> Examples:
    """The examples, with a warning about those that cannot be read."""
    examples = predictor.embed_examples(source)
    if examples.left_out:
        console.warn(
            f"left out of {source}: {', '.join(f'{n} {why}' for why, n in examples.left_out.items())}"
        )
    return examples


def seen(predictor: RegionPredictor, prediction: Prediction, settings: PredictSettings) -> Scene:
    """The regions with masks and attention; with the names of the baselines where they are asked for."""
    inputs = predictor.inputs(prediction.boxes)
    scores = {predictor.method.name: prediction.probabilities}
    if settings.compare or settings.report:
        text, clip = predictor.embed(prediction.classes), predictor.backbone.text
        for baseline in (ClipCrops(clip, masked=False), ClipCrops(clip, masked=True)):
            scores[baseline.name] = baseline.probabilities(inputs, text)
    return see(settings.image.name, inputs, scores, prediction.classes, predictor.method)


def save_pictures(scene: Scene, out: Path) -> list[Path]:
    """Writes the regions with masks, the attention of a few boxes by layer, and the methods side by side."""
    if scene.attention is None:
        return []
    _, scores = next(iter(scene.named.values()))
    best = np.argsort(-scores, kind="stable")[:MAX_ATTENTION].tolist()
    pictures = {"": sheet([regions(scene)], side=PICTURE_SIDE)}
    pictures["-attention"] = sheet([panel for i in best for panel in attention(scene, i)], columns=COLUMNS)
    if len(scene.named) > 1:
        pictures["-compare"] = sheet(comparison(scene), columns=COLUMNS)
    paths = [out.with_name(f"{out.stem}{end}{out.suffix}") for end in pictures]
    for path, picture in zip(paths, pictures.values(), strict=True):
        with _writing(path, ".png or .jpg file", "--out"):
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    return paths


@contextmanager
def _writing(path: Path, kind: str, option: str) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # also an ending that names no kind of picture
        found = f"{path} cannot be written: {error}."
        raise InputError(found, f"A writable {kind}.", f"{option} FILE") from None


def write_page(path: Path, scene: Scene, prediction: Prediction, settings: PredictSettings) -> None:
    """Writes everything about the image as one HTML file."""
    count, (height, width) = len(scene.boxes), scene.image.shape[:2]
    every = "every box" if count <= PAGE_ATTENTION else f"the {PAGE_ATTENTION} largest boxes"
    body = (
        "The names of each method on the same boxes, each with its probability among the classes asked for, "
        "equal names in equal colours; the masks of SAM; then the cross-attention of "
        f"{every} over the patches of the image, layer by layer: the brighter, the more attention."
    )
    shown = [Text(body=body), *figures(scene, attention_of=PAGE_ATTENTION, more=_details(scene, prediction))]
    facts: dict[str, Cell] = {
        "image": str(settings.image),
        "size": f"{width} x {height} pixels",
        "boxes": "given" if settings.boxes else f"the best {settings.top} of the RPN",
        "classes": len(prediction.classes),
        "examples": str(settings.examples or "none"),
        "model": str(settings.checkpoint),
    }
    sections = [*(shown if count else [Text(body="No boxes.")]), KeyValues(title="Settings", items=facts)]
    with _writing(path, ".html file", "--report"):
        write_report(path, f"Regions of {scene.title}", "", sections)


def _details(scene: Scene, prediction: Prediction) -> dict[str, list[str]]:
    """Columns beside the names: the runners-up, and the boxes in pixels."""
    ranked = prediction.top(1 + RUNNERS_UP)
    runners_up = ["; ".join(f"{name} {score:.2f}" for name, score in row[1:]) for row in ranked]
    places = [NO_BREAK.join(f"{value:.0f}" for value in box) for box in scene.boxes]
    return {"next": runners_up, NO_BREAK.join(("x0", "y0", "x1", "y1")): places}


def _region(scene: Scene, i: int) -> dict[str, Any]:
    """Region i of the JSON result."""
    ours, *baselines = (
        {"name": names[i], "score": round(float(scores[i]), 4)} for names, scores in scene.named.values()
    )
    region: dict[str, Any] = {"box": [round(float(value), 1) for value in scene.boxes[i]], **ours}
    if baselines:
        region["baselines"] = dict(zip(list(scene.named)[1:], baselines, strict=True))
    return region


def line_of(region: dict[str, Any]) -> str:
    """A region of the JSON result, for people."""
    beside = [f"{m}: {one['name']} {one['score']:.2f}" for m, one in region.get("baselines", {}).items()]
    return "  ".join([f"{region['score']:.2f}", f"{region['name']:<32}", str(region["box"]), *beside])
