"""What the reference evaluators are given: they trust their input, write into it, and sort image ids."""

from copy import deepcopy
from typing import Any

from regionspot_cache.datasets.values import places
from regionspot_cache.evaluation.annotations import Annotations
from regionspot_cache.evaluation.detections import Detections
from regionspot_cache.evaluation.ground_truth import annotation_area, by_id
from regionspot_cache.evaluation.results_file import IouType, image_entries
from regionspot_cache.evaluation.rle import annotation_rle


def reference_input(
    annotations: Annotations, detections: Detections, iou_type: IouType
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A dictionary of annotations and a list of results, with images numbered in the order that we take.

    Raises:
        InputError: for "segm", an annotation or a detection has no usable mask.
    """
    images = by_id(annotations["images"])
    place = places((image["id"] for image in images), "the ground truth")
    known = {category["id"] for category in annotations["categories"]}
    objects = []
    for number, annotation in enumerate(annotations["annotations"]):
        if annotation["category_id"] not in known:  # left out by our evaluator too, whatever its image
            continue
        copy = {key: deepcopy(value) for key, value in annotation.items() if key != "segmentation"}
        copy["area"] = annotation_area(annotation)
        copy["id"] = number + 1  # 0 would say "no match"
        copy["image_id"] = place[str(annotation["image_id"])] + 1
        copy.setdefault("iscrowd", 0)
        if iou_type == "segm":
            image = images[copy["image_id"] - 1]
            copy["segmentation"] = annotation_rle(
                annotation.get("segmentation"), image["height"], image["width"]
            )
        objects.append(copy)
    truth = {
        "images": [{**deepcopy(image), "id": number + 1} for number, image in enumerate(images)],
        "annotations": objects,
        "categories": deepcopy(annotations["categories"]),
    }
    results = [
        {**entry, "image_id": place[str(image_id)] + 1}
        for index, image_id in enumerate(detections.image_ids)
        for entry in image_entries(detections, index, iou_type)
    ]
    return truth, results
