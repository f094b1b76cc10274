"""`rs-cache predict`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.asked import parse_boxes, parse_classes, require_image
from pipeline.settings import PredictSettings
from pipeline.tiny_networks import require_named_backbone, warn_of_photographs
from pipeline.verbs.command import verb


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
    classes = parse_classes(settings.classes, settings.checkpoint)
    warn_of_photographs(settings.backbone or settings.checkpoint, settings.image)
    from pipeline.predict import predict as run

    run(settings, boxes, classes, as_json=as_json)
