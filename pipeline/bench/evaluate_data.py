"""A random LVIS problem with the proportions of LVIS val: 12 boxes an image, rare and frequent categories."""

from typing import Any

import numpy as np

from regionspot_cache.evaluation import Detections

BOXES, NEGATIVES = 12, 8  # of an image, on average; categories known to be absent
WIDTH, HEIGHT = 640, 480


def random_problem(images: int, detections: int, categories: int) -> tuple[dict[str, Any], Detections]:
    """Annotations and detections; half of the detections lie near an annotated box."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, categories + 1)
    weights /= weights.sum()
    counts = rng.integers(0, 2 * BOXES + 1, images)
    owners = np.repeat(np.arange(images), counts)
    boxes, labels = random_boxes(rng, len(owners)), rng.choice(categories, len(owners), p=weights)
    negatives = rng.choice(categories, (images, NEGATIVES), p=weights)
    annotations = {
        "images": _images(images, owners, labels, negatives),
        "annotations": _annotations(owners, labels, boxes),
        "categories": [
            {"id": c + 1, "name": f"class {c}", "frequency": "fcr"[c % 3]} for c in range(categories)
        ],
    }
    starts = np.cumsum(counts) - counts
    return annotations, _detections(rng, detections, categories, counts, starts, boxes, labels)


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """xywh float64 [count, 4], sides from 8 to 400 pixels, so that all area ranges occur."""
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    return np.concatenate([corners, sides], axis=1).round(2)


def _images(
    count: int, owners: np.ndarray, labels: np.ndarray, negatives: np.ndarray
) -> list[dict[str, Any]]:
    present: list[set[int]] = [set() for _ in range(count)]
    for owner, label in zip(owners.tolist(), labels.tolist(), strict=True):
        present[owner].add(label + 1)
    return [
        {
            "id": i + 1,
            "width": WIDTH,
            "height": HEIGHT,
            "neg_category_ids": sorted({c + 1 for c in negatives[i].tolist()} - present[i]),
            "not_exhaustive_category_ids": sorted(present[i])[:1],
        }
        for i in range(count)
    ]


def _annotations(owners: np.ndarray, labels: np.ndarray, boxes: np.ndarray) -> list[dict[str, Any]]:
    rows = zip(owners.tolist(), labels.tolist(), boxes.tolist(), strict=True)
    return [
        {
            "id": n,
            "image_id": owner + 1,
            "category_id": label + 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for n, (owner, label, box) in enumerate(rows, start=1)
    ]


def _detections(
    rng: np.random.Generator,
    per_image: int,
    categories: int,
    counts: np.ndarray,
    starts: np.ndarray,
    true_boxes: np.ndarray,
    true_labels: np.ndarray,
) -> Detections:
    images = len(counts)
    total = images * per_image
    image = np.repeat(np.arange(images), per_image)
    boxes, labels = random_boxes(rng, total), rng.integers(0, categories, total)
    near = np.flatnonzero((rng.random(total) < 0.5) & (counts[image] > 0))
    source = starts[image[near]] + (rng.random(len(near)) * counts[image[near]]).astype(np.int64)
    moved = true_boxes[source]
    boxes[near] = moved + rng.normal(0, 0.06, moved.shape) * moved[:, [2, 3, 2, 3]]
    right = rng.random(len(near)) < 0.7
    labels[near[right]] = true_labels[source[right]]
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
    boxes[:, 2:] += boxes[:, :2]
    return Detections(
        image_ids=tuple(range(1, images + 1)),
        offsets=np.arange(0, total + 1, per_image, dtype=np.int64),
        category_ids=(labels + 1).astype(np.int32),
        scores=rng.random(total, np.float32),
        box_index=np.arange(total, dtype=np.int32),
        boxes=boxes.astype(np.float32),
        masks=None,
    )
