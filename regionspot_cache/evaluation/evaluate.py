"""One call from detections and annotations to average precision."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from regionspot_cache.evaluation import coco, lvis
from regionspot_cache.evaluation.average_precision import image_index, precision_curves
from regionspot_cache.evaluation.detections import MAX_DETECTIONS, Detections
from regionspot_cache.evaluation.ground_truth import ground_truth, load_annotations, restrict
from regionspot_cache.evaluation.metrics import AveragePrecision, summarize
from regionspot_cache.evaluation.results_file import IouType


def evaluate(
    detections: Detections,
    annotations: Path | str | Mapping[str, Any],
    *,
    iou_types: Sequence[IouType] = ("bbox", "segm"),
    subsets: Mapping[str, Sequence[int]] | None = None,
    image_ids: Iterable[int | str] | None = None,
    cap: int = MAX_DETECTIONS,
    fast: bool = True,
) -> dict[IouType, AveragePrecision]:
    """AP by the rules of LVIS where images name the categories searched for, else by those of COCO.

    Args:
        annotations: file or content. Read only.
        iou_types: overlap of boxes, of masks, or both.
        subsets: names and category ids of further means, for example {"novel": [...]}.
        image_ids: judge only these images; None: all of the annotation file, with detections or not.
        cap: the best detections that count per image over all classes, before any filter.
        fast: our own evaluator; False: the lvis package or pycocotools (slow; the same numbers).

    Raises:
        MissingFileError, InputError: annotations that cannot be used, detections of other images, or no masks
            for "segm".
    """
    content = load_annotations(annotations)
    if image_ids is not None:
        content = restrict(content, image_ids)
    truth = ground_truth(content)
    image_index(truth, detections)  # refuses detections of other images before any work
    capped = detections.capped(cap)
    reference = lvis.reference_curves if truth.federated else coco.reference_curves
    return {
        kind: summarize(
            precision_curves(truth, capped, kind) if fast else reference(content, capped, kind),
            truth.category_ids,
            truth.frequency,
            subsets or {},
        )
        for kind in iou_types
    }
