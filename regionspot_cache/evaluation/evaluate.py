"""One call from detections and annotations to average precision."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from regionspot_cache.evaluation.average_precision import COCO_PER_PAIR, image_index, precision_curves
from regionspot_cache.evaluation.detections import MAX_DETECTIONS, Detections
from regionspot_cache.evaluation.ground_truth import GroundTruth, ground_truth
from regionspot_cache.evaluation.lvis import lvis_curves
from regionspot_cache.evaluation.metrics import AveragePrecision, Curves, summarize
from regionspot_cache.evaluation.reference import coco_curves
from regionspot_cache.evaluation.results_file import IouType

ApType = Literal["standard", "fixed"]


def evaluate(
    detections: Detections,
    annotations: Path | str | Mapping[str, Any] | GroundTruth,
    *,
    iou_types: Sequence[IouType] = ("bbox", "segm"),
    subsets: Mapping[str, Sequence[int]] | None = None,
    image_ids: Iterable[int | str] | None = None,
    ap: ApType = "standard",
    cap: int = MAX_DETECTIONS,
    fast: bool = True,
) -> dict[IouType, AveragePrecision]:
    """AP by the rules of LVIS where images name the categories searched for, else by those of COCO.

    Args:
        annotations: file or content, which is read only, or what `ground_truth` made of them.
        iou_types: overlap of boxes, of masks, or both.
        subsets: names and category ids of further means, for example {"novel": [...]}.
        image_ids: judge only these images; None: all of the annotation file, with detections or
            not. A `GroundTruth` has its images already.
        ap: "standard" counts the best detections of each image; "fixed" the 10,000 best of each category over
            the dataset, however many of an image (Dave et al. 2021), which does not make categories compete.
        cap: standard AP: how many of an image count, over all classes, before any filter.
        fast: our own evaluator; False: the lvis package or pycocotools (slow; the same numbers).

    Raises:
        MissingFileError, InputError: annotations that cannot be used, detections of other images, or no masks
            for "segm".
    """
    truth = ground_truth(annotations, image_ids)
    image_index(truth, detections)  # refuses detections of other images before any work
    counted = detections.capped(cap) if ap == "standard" else detections.best_of_categories()
    per_pair = COCO_PER_PAIR if ap == "standard" and not truth.federated else None

    def curves(kind: IouType) -> Curves:
        if fast:
            return precision_curves(truth, counted, kind, per_pair)
        if truth.federated:
            return lvis_curves(truth, counted, kind)
        return coco_curves(truth, counted, kind, per_pair)

    categories, frequency = truth.category_ids, truth.frequency
    return {kind: summarize(curves(kind), categories, frequency, subsets or {}) for kind in iou_types}
