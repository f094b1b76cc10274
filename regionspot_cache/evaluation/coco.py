"""The reference: COCO AP by pycocotools."""

import contextlib
import io
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from regionspot_cache.evaluation.detections import Detections
from regionspot_cache.evaluation.ground_truth import annotation_area
from regionspot_cache.evaluation.metrics import Curves
from regionspot_cache.evaluation.results_file import IouType, image_entries
from regionspot_cache.evaluation.rle import mask_areas


def reference_curves(
    annotations: Mapping[str, Any], detections: Detections, iou_type: IouType, per_pair: int | None = None
) -> Curves:
    """The curves that pycocotools computes.

    Args:
        annotations: the COCO dictionary; it is copied, for pycocotools writes into its input.
        detections: those that count.
        per_pair: how many of them count for an image and category; None: all.
    """
    truth = {key: deepcopy(annotations[key]) for key in ("images", "annotations", "categories")}
    for number, annotation in enumerate(truth["annotations"], start=1):
        annotation["area"] = annotation_area(annotation)
        annotation["id"] = number  # pycocotools takes id 0 for "no match"
        annotation.setdefault("iscrowd", 0)
    found = {**truth, "annotations": _results(annotations, detections, iou_type)}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation: Any = COCOeval(_index(truth), _index(found), iou_type)
        evaluation.params.maxDets = [per_pair or len(detections) + 1]
        evaluation.evaluate()
        evaluation.accumulate()
    curves: dict[str, np.ndarray] = evaluation.eval
    # [T,R,K,A,M] and [T,K,A,M]; M holds the one limit of detections.
    return Curves(precision=curves["precision"][..., -1], recall=curves["recall"][..., -1])


def _index(dataset: dict[str, Any]) -> COCO:
    coco: Any = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _results(
    annotations: Mapping[str, Any], detections: Detections, iou_type: IouType
) -> list[dict[str, Any]]:
    own_id = {str(image["id"]): image["id"] for image in annotations["images"]}
    results = []
    for index, image_id in enumerate(detections.image_ids):
        for entry in image_entries(detections, index, iou_type):
            entry |= {"image_id": own_id[str(image_id)], "id": len(results) + 1, "area": _area(entry)}
            results.append(entry)
    return results


def _area(entry: Mapping[str, Any]) -> float:
    if "segmentation" in entry:
        return float(mask_areas([entry["segmentation"]])[0])
    return entry["bbox"][2] * entry["bbox"][3]
