"""COCO results files: detections written an image at a time."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from regionspot_cache.errors import InputError
from regionspot_cache.evaluation.detections import Detections
from regionspot_cache.files import replacing
from regionspot_cache.json_stream import write_json_array

IouType = Literal["bbox", "segm"]


def write_results(path: Path, detections: Detections, iou_type: IouType = "bbox") -> None:
    """Writes a COCO results list, whole or not at all; numbers keep every bit.

    "segm" entries have no bbox: lvis takes the area of the box instead of the mask's where both are there.
    InputError for detections without masks.
    """
    with replacing(path) as staging:
        images = range(len(detections.image_ids))
        write_json_array(staging, (image_entries(detections, image, iou_type) for image in images))


def image_entries(detections: Detections, image: int, iou_type: IouType) -> list[dict[str, Any]]:
    """The result entries of the image with this index, as lvis and pycocotools take them."""
    rows = detections.rows(image)
    boxes = detections.box_index[rows]
    if iou_type == "bbox":
        xywh = detections.boxes[boxes].astype(np.float64)
        xywh[:, 2:] -= xywh[:, :2]
        key, shapes = "bbox", xywh.tolist()
    elif detections.masks is None and len(boxes):
        raise InputError("the detections have no masks", "a mask for every box", "evaluate boxes only")
    else:
        rles = {box: detections.masks.rle(box) for box in set(boxes.tolist())} if detections.masks else {}
        codes = {box: {**rle, "counts": rle["counts"].decode("ascii")} for box, rle in rles.items()}
        key, shapes = "segmentation", [codes[box] for box in boxes.tolist()]
    image_id = detections.image_ids[image]
    categories, scores = detections.category_ids[rows].tolist(), detections.scores[rows].tolist()
    return [
        {"image_id": image_id, "category_id": category, key: shape, "score": score}
        for category, score, shape in zip(categories, scores, shapes, strict=True)
    ]
