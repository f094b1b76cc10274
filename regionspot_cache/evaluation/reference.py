"""The reference evaluators: what they are given, and COCO AP by pycocotools (LVIS AP is in `lvis`)."""

import contextlib
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from regionspot_cache.datasets.values import places
from regionspot_cache.evaluation.detections import Detections
from regionspot_cache.evaluation.ground_truth import GroundTruth
from regionspot_cache.evaluation.metrics import Curves
from regionspot_cache.evaluation.results_file import IouType, image_entries
from regionspot_cache.evaluation.rle import mask_areas


def reference_input(
    truth: GroundTruth, detections: Detections, iou_type: IouType
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A dictionary of annotations and a list of results, with images numbered in the order of `truth`.

    Raises:
        InputError: for "segm", an annotation or a detection has no usable mask.
    """
    images: list[dict[str, Any]] = [
        {"id": number, "height": height, "width": width}
        for number, (height, width) in enumerate(truth.sizes.tolist(), start=1)
    ]
    if truth.federated:
        lists = {"neg_category_ids": truth.negative, "not_exhaustive_category_ids": truth.not_exhaustive}
        for name, keys in lists.items():
            for image in images:
                image[name] = []
            for place, category in truth.pairs_of(keys):
                images[place][name].append(category)
    columns = (truth.images, truth.category_ids[truth.categories], truth.boxes, truth.areas, truth.crowd)
    objects: list[dict[str, Any]] = [
        {"image_id": image + 1, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for image, category, box, area, crowd in zip(*(c.tolist() for c in columns), strict=True)
    ]
    for row, annotation in enumerate(objects):
        annotation |= {"id": row + 1, "ignore": int(truth.ignore[row])}  # an id of 0 would say "no match"
        if iou_type == "segm":
            annotation["segmentation"] = truth.rle(row)
    # lvis wants a frequency; `summarize` does not take it from there.
    categories = [{"id": category, "frequency": "f"} for category in truth.category_ids.tolist()]
    place = places(truth.image_ids, "the ground truth")
    results = [
        {**entry, "image_id": place[str(image_id)] + 1}
        for index, image_id in enumerate(detections.image_ids)
        for entry in image_entries(detections, index, iou_type)
    ]
    return {"images": images, "annotations": objects, "categories": categories}, results


def coco_curves(
    truth: GroundTruth, detections: Detections, iou_type: IouType, per_pair: int | None = None
) -> Curves:
    """The curves that pycocotools computes.

    Args:
        detections: those that count.
        per_pair: how many of them count for an image and category; None: all.
    """
    content, results = reference_input(truth, detections, iou_type)
    for number, entry in enumerate(results, start=1):
        masks = [entry["segmentation"]] if "segmentation" in entry else []
        area = float(mask_areas(masks)[0]) if masks else entry["bbox"][2] * entry["bbox"][3]
        entry |= {"id": number, "area": area}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation: Any = COCOeval(_index(content), _index({**content, "annotations": results}), iou_type)
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
