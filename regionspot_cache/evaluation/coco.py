"""The reference: COCO AP by pycocotools."""

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from regionspot_cache.evaluation.annotations import Annotations
from regionspot_cache.evaluation.detections import Detections
from regionspot_cache.evaluation.metrics import Curves
from regionspot_cache.evaluation.reference import reference_input
from regionspot_cache.evaluation.results_file import IouType
from regionspot_cache.evaluation.rle import mask_areas


def reference_curves(
    annotations: Annotations, detections: Detections, iou_type: IouType, per_pair: int | None = None
) -> Curves:
    """The curves that pycocotools computes.

    Args:
        detections: those that count.
        per_pair: how many of them count for an image and category; None: all.
    """
    truth, results = reference_input(annotations, detections, iou_type)
    for number, entry in enumerate(results, start=1):
        entry |= {"id": number, "area": _area(entry)}
    found = {**truth, "annotations": results}
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


def _area(entry: Mapping[str, Any]) -> float:
    if "segmentation" in entry:
        return float(mask_areas([entry["segmentation"]])[0])
    return entry["bbox"][2] * entry["bbox"][3]
