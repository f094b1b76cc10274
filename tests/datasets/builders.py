"""Small datasets on disk in each of the formats."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

SHARED = Path(__file__).parents[2].parent / "shared"
SIZE = (40, 30)  # width, height


def image_file(path: Path, size: tuple[int, int] = SIZE, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 60)).save(path, **options)
    return path


def image(number: int | str, file_name: str | None = None, **fields: Any) -> dict[str, Any]:
    entry = {"id": number, "width": SIZE[0], "height": SIZE[1], **fields}
    return entry if file_name is None else {**entry, "file_name": file_name}


def annotation(
    number: int, image_id: int | str, category: int = 1, bbox: Sequence[float] = (5, 6, 10, 12), **fields: Any
) -> dict[str, Any]:
    return {"id": number, "image_id": image_id, "category_id": category, "bbox": list(bbox), **fields}


def classes(*names: str) -> list[dict[str, Any]]:
    return [{"id": number, "name": name} for number, name in enumerate(names, 1)]


def coco_json(
    file: Path,
    images: Sequence[dict[str, Any]],
    annotations: Sequence[dict[str, Any]],
    categories: Sequence[dict[str, Any]] = ({"id": 1, "name": "thing"},),
) -> Path:
    """The sections in LVIS order: annotations before the images that they belong to."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"info": {}, "annotations": annotations, "images": images, "categories": categories}
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


O365_V1 = classes("person", "sneakers", "chair", "hat", "lamp", "bottle", "cabinet/shelf", "tissue ")
O365_V2 = classes(
    "Person", "Sneakers", "Chair", "Other Shoes", "Hat", "Car", "Lamp", "Moniter/TV", "Formula 1 "
)

BOX_HEADER = [
    "ImageID",
    "Source",
    "LabelName",
    "Confidence",
    "XMin",
    "XMax",
    "YMin",
    "YMax",
    "IsOccluded",
    "IsTruncated",
    "IsGroupOf",
    "IsDepiction",
    "IsInside",
]


def openimages_row(image_id: str, mid: str, corners: Sequence[float], group: int = 0) -> dict[str, Any]:
    x1, y1, x2, y2 = corners
    box = {"ImageID": image_id, "LabelName": mid, "XMin": x1, "XMax": x2, "YMin": y1, "YMax": y2}
    rest = {"Source": "xclick", "Confidence": 1, "IsOccluded": -1, "IsTruncated": 0}
    return {**box, **rest, "IsGroupOf": group, "IsDepiction": 0, "IsInside": 0}


def write_csv(file: Path, rows: Iterable[dict[str, Any]], header: Sequence[str] = BOX_HEADER) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, header, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return file
