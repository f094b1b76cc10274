"""`rs-cache predict`: names for the regions of one image, as text or JSON and as pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import console
from pipeline.partition import resolve_device
from pipeline.settings import PredictSettings
from regionspot_cache.backbones import load_proposer
from regionspot_cache.errors import InputError, MissingFileError, UsageError
from regionspot_cache.predictor import CLASSES_FILE, Prediction, RegionPredictor
from regionspot_cache.reporting.drawing import attention_grid, contact_sheet, draw_regions

MAX_ATTENTION = 6  # boxes in the attention picture


def predict(settings: PredictSettings, *, as_json: bool = False) -> Prediction:
    """Names the given boxes, or those that the RPN proposes, and writes the pictures."""
    predictor = RegionPredictor.from_pretrained(
        settings.checkpoint, backbone=settings.backbone, device=resolve_device(settings.device)
    )
    predictor.set_image(settings.image)
    boxes = parse_boxes(settings.boxes) if settings.boxes else propose(predictor, settings.top)
    prediction = predictor.predict(boxes, parse_classes(settings.classes, settings.checkpoint))
    out = settings.out or Path(f"{settings.image.stem}-regions.png")
    pictures = draw(predictor, prediction, out)
    facts = {
        "image": str(settings.image),
        "regions": [
            {"box": [round(float(v), 1) for v in box], "name": name, "score": round(float(score), 4)}
            for box, name, score in zip(prediction.boxes, prediction.names, prediction.scores, strict=True)
        ],
        "pictures": [str(path) for path in pictures],
    }
    lines = [f"{r['score']:.2f}  {r['name']:<32} {r['box']}" for r in facts["regions"]]
    console.result(facts, "\n".join([*lines, *map(str, pictures)]), as_json=as_json)
    return prediction


def propose(predictor: RegionPredictor, top: int) -> NDArray[np.float32]:
    """The RPN's best boxes of the present image."""
    networks, inputs = predictor.backbone, predictor.inputs(np.zeros((0, 4)))
    proposer = load_proposer(networks.spec.proposer, networks.sam, console.fetching)
    return proposer.propose(inputs.image, inputs.embedding)[0][:top]


def draw(predictor: RegionPredictor, prediction: Prediction, out: Path) -> list[Path]:
    """Writes the regions with masks, and the attention of a few boxes in every layer."""
    if not len(prediction.boxes):
        return []
    inputs = predictor.inputs(prediction.boxes)
    picture = draw_regions(inputs.image, inputs.boxes, prediction.names, prediction.scores, inputs.masks[0])
    attention = out.with_name(f"{out.stem}-attention{out.suffix}")
    best = np.argsort(-prediction.scores)[:MAX_ATTENTION]
    weights = patch_attention(predictor, inputs)
    grids = [
        attention_grid(
            inputs.image, inputs.boxes[i], weights[:, i], f"{prediction.names[i]} {prediction.scores[i]:.2f}"
        )
        for i in best
    ]
    try:
        picture.save(out)
        contact_sheet(grids, columns=1).save(attention)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{out} cannot be written: {error}.", "A writable .png or .jpg file.", "--out FILE"
        ) from None
    return [out, attention]


def patch_attention(predictor: RegionPredictor, inputs: Any) -> NDArray[np.float32]:
    """Cross-attention over the patches alone, [L, N, rows, columns]: the class token is left out."""
    weights = predictor.method.attention(inputs)  # [L, N, M]
    rows, columns = predictor.backbone.clip.grid
    return weights[:, :, -rows * columns :].reshape(*weights.shape[:2], rows, columns)


def parse_boxes(text: str) -> NDArray[np.float32]:
    """Boxes from `x0,y0,x1,y1;...` or from a JSON file that holds a list of such fours.

    Raises:
        UsageError: not boxes.
    """
    try:
        path = Path(text)
        rows = (
            json.loads(path.read_text())
            if path.suffix == ".json"
            else [[float(number) for number in box.split(",")] for box in text.split(";") if box.strip()]
        )
        boxes = np.array(rows, np.float32)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"--boxes {text!r}: {error}.", 'Boxes such as "10,20,200,180;30,40,90,120", or a JSON file.'
        ) from None
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UsageError(f"--boxes {text!r} is an array {list(boxes.shape)}.", "Fours: x0,y0,x1,y1;...")
    return boxes


def parse_classes(text: str | None, checkpoint: Path) -> list[str]:
    """Class names from `a,b,c`, from a file with one a line, or those that the head was trained on."""
    if text is None:
        path = checkpoint / CLASSES_FILE
        if not path.is_file():
            raise MissingFileError(
                f"No {CLASSES_FILE} in {checkpoint}.", "Class names.", '--classes "cat,dog"'
            )
    else:
        path = Path(text)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else (text or "").split(",")
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UsageError(f"--classes {text!r} names nothing.", "Names separated by commas, or a file.")
    return names
