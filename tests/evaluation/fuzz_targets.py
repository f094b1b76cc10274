"""Readers of ground truth, results and proposals for `tests.fuzzing`: read, then used as in an evaluation."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from regionspot_cache.evaluation import encode_mask, evaluate, proposal_recall, read_results
from regionspot_cache.evaluation.ground_truth import ground_truth
from regionspot_cache.evaluation.rle import annotation_rle
from regionspot_cache.recognition.proposals import load_proposals
from tests.evaluation.synthetic import HEIGHT, WIDTH, Problem, annotations, detections, perfect_detections
from tests.fuzzing import Target
from tests.recognition.test_proposals import BOXES, DATASET, SCORES, UNIT, detectron2

COCO = annotations(np.random.default_rng(0), Problem(images=2, classes=3, federated=False))
LVIS = annotations(np.random.default_rng(1), Problem(images=2, classes=3))
for content in (COCO, LVIS):  # masks of every form
    content["annotations"][0]["segmentation"] = {
        "size": [HEIGHT, WIDTH],
        "counts": encode_mask(np.tri(HEIGHT, WIDTH, dtype=bool))["counts"].decode(),
    }
    content["annotations"][1]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [9, HEIGHT * WIDTH - 9]}
FOUND = perfect_detections(COCO)
IDS = [image["id"] for image in COCO["images"]]


def _read_truth(path: Path) -> str:
    """What `evaluate` and the scoring of results and proposals make of an annotation file."""
    truth = ground_truth(path)
    ids = truth.image_ids
    ground_truth(path, ids[:1])
    assert truth.judged is None or truth.federated
    boxes = {str(image_id): (np.array([[1, 2, 30, 40]], np.float32), None) for image_id in ids}
    proposal_recall(_Anything(boxes), truth)
    found = detections(np.random.default_rng(0), Problem(classes=3, detections=8), COCO | {"images": []})
    for fast in (True, False):
        evaluate(found, truth, fast=fast)
    known_images = [a for a in COCO["annotations"] if a["image_id"] in set(ids)]
    if known_images and set(IDS) <= set(ids):
        return str({kind: result.to_json() for kind, result in evaluate(FOUND, truth).items()})
    return ""


class _Anything(dict):
    def __getitem__(self, image_id: int | str) -> Any:
        return super().__getitem__(str(image_id))


def _read_results(path: Path) -> str:
    """With and without a ground truth; boxes and masks are scored."""
    found = read_results(path, ground_truth(COCO), frozenset()).detections
    read_results(path)
    kinds = ["bbox"] if found.masks is None else ["bbox", "segm"]
    return str([evaluate(found, COCO, iou_types=kinds, ap=ap) for ap in ("standard", "fixed")])


def _read_proposals(path: Path, **options: Any) -> str:
    found = load_proposals(path, DATASET, top_n=5, **options)
    assert np.isfinite(found.boxes).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    return found.identity


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()


def _entries(kind: str) -> list[dict[str, Any]]:
    entries = []
    for annotation in COCO["annotations"]:
        mask = annotation_rle(annotation["segmentation"], HEIGHT, WIDTH)
        counts = mask["counts"] if isinstance(mask["counts"], str) else mask["counts"].decode()
        shapes = {"bbox": annotation["bbox"], "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}}
        entry = {name: annotation[name] for name in ("image_id", "category_id")}
        entries.append({**entry, kind: shapes[kind], "score": 0.5})
    return entries


def _glip(boxes: Any, scores: Any, image_id: int | str = 7) -> dict[str, Any]:
    return {str(image_id): {"scores": scores, "labels": [1] * len(scores), "boxes": boxes}}


def _npz(**changes: Any) -> bytes:
    file = io.BytesIO()
    arrays = {"image_ids": [7, 9], "offsets": [0, 2, 2], "boxes": np.array(BOXES, np.float32)}
    np.savez(file, **(arrays | {"scores": np.array(SCORES, np.float32)} | changes))
    return file.getvalue()


_XYWH = [{"image_id": i, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5} for i in (7, "b", 9)]
TARGETS = [
    Target(name="truth-coco", sample=_json(COCO), read=_read_truth, suffix=".json"),
    Target(name="truth-lvis", sample=_json(LVIS), read=_read_truth, suffix=".json"),
    Target(name="results-boxes", sample=_json(_entries("bbox")), read=_read_results, suffix=".json"),
    Target(name="results-masks", sample=_json(_entries("segmentation")), read=_read_results, suffix=".json"),
    Target(
        name="results-glip",
        sample=_json({k: v for i in IDS for k, v in _glip(BOXES, SCORES, i).items()}),
        read=_read_results,
        suffix=".json",
    ),
    Target(name="proposals-coco", sample=_json(_XYWH), read=_read_proposals, suffix=".json"),
    Target(name="proposals-glip", sample=_json(_glip(BOXES, SCORES)), read=_read_proposals, suffix=".json"),
    Target(
        name="proposals-normalised-logits",
        sample=_json(_glip(UNIT, [-3.5, 7])),
        read=lambda path: _read_proposals(path, boxes_in="normalised", scores_as="logits"),
        suffix=".json",
    ),
    *(
        Target(
            name=f"proposals-detectron2-{protocol}",
            sample=pickle.dumps(detectron2(), protocol),
            read=_read_proposals,
            suffix=".pkl",
        )
        for protocol in (0, 2, 5)
    ),
    Target(name="proposals-npz", sample=_npz(), read=_read_proposals, suffix=".npz"),
    Target(
        name="proposals-npz-texts",
        sample=_npz(image_ids=np.array(["7", "b"])),
        read=_read_proposals,
        suffix=".npz",
    ),
]
