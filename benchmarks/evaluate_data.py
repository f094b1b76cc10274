"""A random LVIS problem with the proportions of LVIS val: 12 boxes an image, rare and frequent categories."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.settings import Evaluate
from regionspot_cache.evaluation import Detections
from regionspot_cache.evaluation.results_file import image_entries
from regionspot_cache.evaluation.rle import annotation_rle
from regionspot_cache.json_stream import write_json_array

BOXES, NEGATIVES = 12, 8  # of an image, on average; categories known to be absent
WIDTH, HEIGHT = 640, 480
VERTICES = 32  # of an outline


def random_problem(images: int, detections: int, categories: int) -> tuple[dict[str, Any], Detections]:
    """Annotations and detections; half of the detections lie near an annotated box."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, categories + 1)
    weights /= weights.sum()
    counts = rng.integers(0, 2 * BOXES + 1, images)
    ends = np.cumsum(counts)
    owners = np.repeat(np.arange(images), counts)
    boxes, labels = _random_boxes(rng, len(owners)), rng.choice(categories, len(owners), p=weights)
    absent = rng.choice(categories, (images, NEGATIVES), p=weights)
    present = [set((labels[end - count : end] + 1).tolist()) for end, count in zip(ends, counts, strict=True)]
    annotations = {
        "images": [
            {
                "id": i + 1,
                "file_name": f"{i + 1}.jpg",
                "width": WIDTH,
                "height": HEIGHT,
                "neg_category_ids": sorted({c + 1 for c in absent[i].tolist()} - present[i]),
                "not_exhaustive_category_ids": sorted(present[i])[:1],
            }
            for i in range(images)
        ],
        "annotations": [
            {"id": n, "image_id": owner, "category_id": label, "bbox": box, "area": box[2] * box[3]}
            for n, owner, label, box in zip(
                range(1, len(boxes) + 1),
                (owners + 1).tolist(),
                (labels + 1).tolist(),
                boxes.tolist(),
                strict=True,
            )
        ],
        "categories": [
            {"id": c + 1, "name": f"class {c}", "frequency": "fcr"[c % 3]} for c in range(categories)
        ],
    }
    image = np.repeat(np.arange(images), detections)
    found, named = _random_boxes(rng, len(image)), rng.integers(0, categories, len(image))
    near = np.flatnonzero((rng.random(len(image)) < 0.5) & (counts[image] > 0))
    source = (ends - counts)[image[near]] + (rng.random(len(near)) * counts[image[near]]).astype(np.int64)
    found[near] = boxes[source] + rng.normal(0, 0.06, (len(near), 4)) * boxes[source][:, [2, 3, 2, 3]]
    right = rng.random(len(near)) < 0.7
    named[near[right]] = labels[source[right]]
    found[:, 2:] = found[:, :2] + np.maximum(found[:, 2:], 1)
    return annotations, Detections(
        image_ids=tuple(range(1, images + 1)),
        offsets=np.arange(0, len(image) + 1, detections, dtype=np.int64),
        category_ids=(named + 1).astype(np.int32),
        scores=rng.random(len(image), np.float32),
        box_index=np.arange(len(image), dtype=np.int32),
        boxes=found.astype(np.float32),
        masks=None,
    )


def _random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """xywh float64 [count, 4], sides from 8 to 400 pixels, so that all area ranges occur."""
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    return np.concatenate([corners, sides], axis=1).round(2)


def write_problem(work: Evaluate, folder: Path) -> tuple[Path, Path]:
    """Writes annotations with outlines and detections with boxes and masks, all of them ellipses."""
    content, found = random_problem(work.images, work.detections, work.categories)
    boxes = np.array([annotation["bbox"] for annotation in content["annotations"]])
    boxes[:, 2:] += boxes[:, :2]
    for annotation, outline in zip(content["annotations"], _outlines(boxes), strict=True):
        annotation["segmentation"] = [outline]
    truth, results = folder / "val.json", folder / "results.json"
    truth.write_text(json.dumps(content))
    del content
    write_json_array(results, (_entries(found, image) for image in range(work.images)))
    return truth, results


def _outlines(boxes: np.ndarray) -> list[list[float]]:
    """The ellipses in boxes [n,4] xyxy, as polygons."""
    turn = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    circle = (1 + np.stack([np.cos(turn), np.sin(turn)], axis=1)) / 2  # [V,2]
    points = boxes[:, None, :2] + circle * (boxes[:, 2:] - boxes[:, :2])[:, None]
    return points.round(2).reshape(len(boxes), -1).tolist()


def _entries(found: Detections, image: int) -> list[dict]:
    boxes = found.boxes[found.box_index[found.rows(image)]].astype(np.float64)
    entries = image_entries(found, image, "bbox")
    for entry, outline in zip(entries, _outlines(boxes), strict=True):
        rle = annotation_rle([outline], HEIGHT, WIDTH)
        entry["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    return entries
