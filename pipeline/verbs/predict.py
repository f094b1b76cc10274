"""`rs-cache predict`; what it is asked is read before any network is loaded."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from pipeline import names
from pipeline.names import require_named_backbone, warn_of_photographs
from pipeline.options import option, verb
from pipeline.places import WORKPLACE
from regionspot_cache.backbones.vocabulary import listed_names, read_class_names
from regionspot_cache.errors import InputError, MissingFileError, UsageError, near_path
from regionspot_cache.models.hub import CLASSES_FILE, CONFIG_FILE


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """One image."""

    image: Path = option(..., "IMAGE", "An image file.")
    boxes: str | None = option(
        None,
        "--boxes",
        "x0,y0,x1,y1;... in pixels, or a JSON file of such fours; what the RPN proposes if not given.",
        "BOXES",
    )
    classes: str | None = option(
        None,
        "--classes",
        "Names separated by commas, or a file with one a line; else those of --examples or of training.",
        "NAMES",
    )
    examples: Path | None = option(
        None,
        "--examples",
        "Pictures of classes beside their names: a folder of images a class, or a COCO-style file.",
        "PLACE",
    )
    checkpoint: names.Model = names.checkpoint_option(WORKPLACE / "runs" / "shapes")
    backbone: names.Backbone | None = names.backbone_option(None)
    out: Path | None = option(None, "--out", "Picture to write; IMAGE-regions.png if not given.", "FILE")
    top: PositiveInt = option(20, "--top", "Boxes that the RPN proposes.")
    compare: bool = option(False, "--compare", "Also clip-box and clip-mask, and a picture of all.")
    report: Path | None = option(None, "--report", "HTML page with everything about the image.", "FILE")
    device: str = "auto"


def _named_networks(said: Mapping[str, Any], _: Path | None) -> Mapping[str, Any]:
    if "image" in said and not {"backbone", "checkpoint"} & set(said):
        require_named_backbone(Path(str(said["image"])), "--checkpoint DIR")
    return {}


@verb(PredictSettings, defaults=_named_networks)
def predict(settings: PredictSettings, *, as_json: bool) -> None:
    """Name the regions of one image; writes a picture with names, masks and attention.

    Example: rs-cache predict street.jpg --checkpoint runs/bl --classes "car,bus,tram"
    """
    require_image(settings.image)
    boxes = parse_boxes(settings.boxes) if settings.boxes else None
    named = settings.classes is not None or settings.examples is None
    classes = parse_classes(settings.classes, settings.checkpoint) if named else None
    warn_of_photographs(settings.backbone or settings.checkpoint, settings.image)
    from pipeline.predict import predict as run

    run(settings, boxes, classes, as_json=as_json)


def require_image(path: Path) -> None:
    """That there is such a file.

    Raises:
        MissingFileError: there is none; names one that is spelt alike.
    """
    if not path.exists():
        raise MissingFileError(f"There is no image {path}.", f"{near_path(path)}An image file.")


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
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(
            f"--boxes {text[:80]!r}: {error}.", 'Boxes such as "10,20,200,180;30,40,90,120", or a JSON file.'
        ) from None
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        found = f"has {boxes.shape[1]} numbers a box" if boxes.ndim == 2 else "is no list of boxes"
        raise UsageError(f"--boxes {text[:80]!r} {found}.", "Fours: x0,y0,x1,y1;...")
    return boxes


def parse_classes(text: str | None, checkpoint: Path) -> list[str]:
    """Class names from `a,b,c`, from a file with one a line, or those that the head was trained on."""
    if text is None:
        if not (checkpoint / CONFIG_FILE).is_file():
            raise MissingFileError(
                f"There is no trained head in {checkpoint}.",
                f"{near_path(checkpoint)}A folder written by rs-cache train.",
                "rs-cache train, or --checkpoint DIR",
            )
        return read_class_names(checkpoint / CLASSES_FILE)
    if text.endswith(".txt") or os.path.isfile(text):  # names may be longer than a path can be
        return read_class_names(Path(text))
    try:
        return list(listed_names(text))
    except InputError:
        expected = "Names separated by commas, or a file."
        raise UsageError(f"--classes {text!r} names nothing.", expected) from None
