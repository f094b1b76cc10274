"""`rs-cache predict`: names for the regions of one image, as text or JSON, as pictures and as a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import console
from pipeline.partition import resolve_device
from pipeline.report_figures import Names, Seen, figures, patch_attention, top_names
from pipeline.settings import PredictSettings
from regionspot_cache.backbones import load_proposer
from regionspot_cache.errors import InputError
from regionspot_cache.recognition import ClipCrops
from regionspot_cache.recognition.predictor import Prediction, RegionPredictor
from regionspot_cache.reporting.drawing import attention_sheet, compare_predictions, draw_regions
from regionspot_cache.reporting.page import Cell, KeyValues, ReportSection, Table, Text, write_report

MAX_ATTENTION = 6  # boxes in the attention picture
PAGE_ATTENTION = 20  # boxes whose attention a page shows
RUNNERS_UP = 2
NO_BREAK = "\N{NO-BREAK SPACE}"


def predict(
    settings: PredictSettings,
    boxes: NDArray[np.float32] | None,
    classes: Sequence[str],
    *,
    as_json: bool = False,
) -> Prediction:
    """Names boxes, by default those that the RPN proposes, and writes the pictures and the page."""
    predictor = RegionPredictor.from_pretrained(
        settings.checkpoint, backbone=settings.backbone, device=resolve_device(settings.device)
    )
    predictor.set_image(settings.image)
    if boxes is None:
        boxes = propose(predictor, settings.top)
    prediction = predictor.predict(boxes, classes)
    seen = see(predictor, prediction, settings)
    written = save_pictures(seen, settings.out or Path(f"{settings.image.stem}-regions.png"))
    if settings.report:
        write_page(settings.report, seen, prediction, settings)
        written.append(settings.report)
    facts = {
        "image": str(settings.image),
        "regions": [_region(seen, i) for i in range(len(prediction.boxes))],
        "pictures": [str(path) for path in written if path != settings.report],
    }
    if settings.report:
        facts["report"] = str(settings.report)
    lines = [line_of(region) for region in facts["regions"]]
    console.result(facts, "\n".join([*lines, *map(str, written)]), as_json=as_json)
    return prediction


def propose(predictor: RegionPredictor, top: int) -> NDArray[np.float32]:
    """The RPN's best boxes of the present image."""
    networks, inputs = predictor.backbone, predictor.inputs(np.zeros((0, 4)))
    proposer = load_proposer(networks.spec.proposer, networks.sam, console.fetching)
    return proposer.propose(inputs.image, inputs.embedding)[0][:top]


def see(predictor: RegionPredictor, prediction: Prediction, settings: PredictSettings) -> Seen:
    """The regions with masks and attention; with the names of the baselines where they are asked for."""
    inputs = predictor.inputs(prediction.boxes)
    named: dict[str, Names] = {predictor.method.name: (prediction.names, prediction.scores)}
    if settings.compare or settings.report:
        text = predictor.embed(prediction.classes)
        for baseline in (ClipCrops(masked=False), ClipCrops(masked=True)):
            named[baseline.name] = top_names(baseline.logits(inputs, text), prediction.classes)
    return Seen(
        title=settings.image.name,
        image=inputs.image,
        boxes=inputs.boxes,
        named=named,
        masks=inputs.masks[0] if len(inputs.boxes) else None,
        attention=patch_attention(predictor.method, inputs),
    )


def save_pictures(seen: Seen, out: Path) -> list[Path]:
    """Writes the regions with masks, the attention of a few boxes by layer, and the methods side by side."""
    if not len(seen.boxes) or seen.attention is None:
        return []
    names, scores = next(iter(seen.named.values()))
    best = np.argsort(-scores, kind="stable")[:MAX_ATTENTION]
    titles = [f"{names[i]} {scores[i]:.2f}" for i in best]
    pictures = {
        out: draw_regions(seen.image, seen.boxes, names, scores, seen.masks),
        _beside(out, "attention"): attention_sheet(
            seen.image, seen.boxes[best], seen.attention[:, best], titles
        ),
    }
    if len(seen.named) > 1:
        pictures[_beside(out, "compare")] = compare_predictions(seen.image, seen.boxes, seen.named)
    for path, picture in pictures.items():
        _save(path, picture)
    return list(pictures)


def _beside(out: Path, what: str) -> Path:
    return out.with_name(f"{out.stem}-{what}{out.suffix}")


def _save(path: Path, picture: Image.Image) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be written: {error}.", "A writable .png or .jpg file.", "--out FILE"
        ) from None


def write_page(path: Path, seen: Seen, prediction: Prediction, settings: PredictSettings) -> None:
    """Writes everything about the image as one HTML file."""
    sections: list[ReportSection] = [Text(body="No boxes.")]
    if len(seen.boxes):
        shown = min(len(seen.boxes), PAGE_ATTENTION)
        sections = [
            _table(seen, prediction),
            Text(
                title="What it sees, and where it looks",
                body="The names of each method on the same boxes, equal names in equal colours; the masks of "
                "SAM; then the cross-attention of "
                f"{'every box' if shown == len(seen.boxes) else f'the {shown} largest boxes'}"
                " over the patches of CLIP's map, layer by layer: the brighter, the more attention.",
            ),
            *figures(seen, attention_of=PAGE_ATTENTION),
        ]
    height, width = seen.image.shape[:2]
    facts: dict[str, Cell] = {
        "image": str(settings.image),
        "size": f"{width} x {height} pixels",
        "boxes": "given" if settings.boxes else f"the best {settings.top} of the RPN",
        "classes": len(prediction.classes),
        "model": str(settings.checkpoint),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_report(
            path, f"Regions of {seen.title}", "", [*sections, KeyValues(title="Settings", items=facts)]
        )
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error}.", "A writable .html file.", "--report FILE"
        ) from None


def _table(seen: Seen, prediction: Prediction) -> Table:
    ranked = np.argsort(-prediction.probabilities, axis=1, kind="stable")[:, 1 : 1 + RUNNERS_UP]
    ours, *baselines = seen.named
    rows: list[list[Cell]] = []
    for i, box in enumerate(seen.boxes):
        others = [f"{prediction.classes[k]} {prediction.probabilities[i, k]:.2f}" for k in ranked[i].tolist()]
        named = [f"{seen.named[m][0][i]} {seen.named[m][1][i]:.2f}" for m in (ours, *baselines)]
        rows.append([str(i + 1), *named, "; ".join(others), NO_BREAK.join(f"{v:.0f}" for v in box)])
    return Table(
        caption=f"{len(rows)} regions",
        columns=["box", ours, *baselines, f"{ours}'s next", NO_BREAK.join(("x0", "y0", "x1", "y1"))],
        rows=rows,
        note="Each name with its probability among the classes asked for. Boxes in pixels.",
    )


def _region(seen: Seen, i: int) -> dict[str, Any]:
    (names, scores), *_ = seen.named.values()
    region: dict[str, Any] = {
        "box": [round(float(v), 1) for v in seen.boxes[i]],
        "name": names[i],
        "score": round(float(scores[i]), 4),
    }
    baselines = {
        method: {"name": named[i], "score": round(float(given[i]), 4)}
        for method, (named, given) in list(seen.named.items())[1:]
    }
    return {**region, "baselines": baselines} if baselines else region


def line_of(region: dict[str, Any]) -> str:
    """A region of the JSON result, for people."""
    beside = [f"{m}: {one['name']} {one['score']:.2f}" for m, one in region.get("baselines", {}).items()]
    return "  ".join([f"{region['score']:.2f}", f"{region['name']:<32}", str(region["box"]), *beside])
