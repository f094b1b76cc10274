"""Random detection problems, federated (LVIS) or not (COCO), with polygons and run lengths."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from regionspot_cache.evaluation import Detections
from regionspot_cache.evaluation.detections import MaskTable
from regionspot_cache.evaluation.rle import annotation_rle

WIDTH, HEIGHT = 200, 160


@dataclass(frozen=True, kw_only=True)
class Problem:
    images: int = 12
    classes: int = 7
    detections: int = 40  # per image
    tied_scores: bool = False
    masks: bool = True
    federated: bool = True


def box_polygon(x: float, y: float, w: float, h: float) -> list[float]:
    return [x, y, x + w, y, x + 0.8 * w, y + h, x, y + h]


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """xywh; sizes from 3 to 150 pixels, so that all area ranges occur."""
    sides = np.exp(rng.uniform(np.log(3), np.log(150), (count, 2)))
    corner = rng.uniform(0, 1, (count, 2)) * np.maximum([WIDTH, HEIGHT] - sides, 1)
    return np.round(np.concatenate([corner, np.minimum(sides, [WIDTH, HEIGHT])], axis=1), 2)


def annotations(rng: np.random.Generator, problem: Problem) -> dict[str, Any]:
    categories = [
        {"id": 3 * c + 1, "name": f"class {c}", "frequency": "rcf"[c % 3]} for c in range(problem.classes)
    ]
    if not problem.federated:
        for category in categories:
            del category["frequency"]
    images, objects = [], []
    for image_id in rng.permutation(1000)[: problem.images].tolist():
        present = rng.choice(problem.classes, size=min(3, problem.classes), replace=False)
        absent = np.setdiff1d(rng.permutation(problem.classes)[: problem.classes // 2], present)
        image = {"id": image_id, "width": WIDTH, "height": HEIGHT}
        if problem.federated:
            image["neg_category_ids"] = [3 * int(c) + 1 for c in absent]
            image["not_exhaustive_category_ids"] = [3 * int(c) + 1 for c in present if rng.random() < 0.3]
        images.append(image)
        for box in random_boxes(rng, int(rng.integers(0, 9))):
            category = 3 * int(rng.choice(present)) + 1
            objects.append(annotation(rng, problem, image_id, category, box, len(objects) + 1))
    return {"images": images, "annotations": objects, "categories": categories}


def annotation(
    rng: np.random.Generator, problem: Problem, image_id: int, category: int, box: np.ndarray, number: int
) -> dict[str, Any]:
    polygon = box_polygon(*box.tolist())
    made = {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": box.tolist(),
        "area": 0.9 * float(box[2] * box[3]),
        "segmentation": [polygon],
    }
    if not problem.federated:
        made["iscrowd"] = int(rng.random() < 0.15)
    elif rng.random() < 0.1:
        made["ignore"] = 1
    return made


def detections(rng: np.random.Generator, problem: Problem, truth: dict[str, Any]) -> Detections:
    """Half of the boxes are annotated ones, moved a little; categories are often right."""
    parts = []
    for image in rng.permutation(truth["images"]):
        own = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        boxes = random_boxes(rng, problem.detections // 2)
        labels = 3 * rng.integers(0, problem.classes + 1, len(boxes)) + 1  # one category is unknown
        if own:
            chosen = rng.integers(0, len(own), problem.detections // 2)
            near = np.array([own[i]["bbox"] for i in chosen])
            near = near + rng.normal(0, 0.06, near.shape) * near[:, [2, 3, 2, 3]]
            near_labels = np.array([own[i]["category_id"] for i in chosen])
            swapped = rng.random(len(near)) < 0.3
            near_labels[swapped] = 3 * rng.integers(0, problem.classes, swapped.sum()) + 1
            boxes, labels = np.concatenate([boxes, near]), np.concatenate([labels, near_labels])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
        scores = rng.random(len(boxes))
        if problem.tied_scores:
            scores = np.round(scores, 1)
        order = rng.permutation(len(boxes))
        xyxy = boxes.copy()
        xyxy[:, 2:] += xyxy[:, :2]
        masks = [
            mask_utils.merge(mask_utils.frPyObjects([box_polygon(*box)], HEIGHT, WIDTH))
            for box in (boxes.tolist() if problem.masks else [])
        ]
        parts.append(
            Detections.of(
                image["id"],
                boxes=xyxy,
                box_index=order,
                category_ids=labels[order],
                scores=scores[order],
                masks=MaskTable.from_rles(masks) if masks else None,
            )
        )
    return Detections.concatenate(parts)


def perfect_detections(truth: dict[str, Any]) -> Detections:
    """Every annotation with score 1."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    parts = []
    for image_id, (height, width) in sizes.items():
        own = [a for a in truth["annotations"] if a["image_id"] == image_id]
        boxes = np.array([a["bbox"] for a in own], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        parts.append(
            Detections.of(
                image_id,
                boxes=boxes,
                box_index=np.arange(len(own)),
                category_ids=np.array([a["category_id"] for a in own], np.int64),
                scores=np.ones(len(own), np.float32),
                masks=MaskTable.from_rles([annotation_rle(a["segmentation"], height, width) for a in own]),
            )
        )
    return Detections.concatenate(parts)
