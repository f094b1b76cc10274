"""Every class of an evaluation by itself: how well each method does, and what it is taken for."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.scoring import Scored
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.evaluation import IouType
from regionspot_cache.evaluation.confusion import Confusion
from regionspot_cache.files import replacing

COLUMNS = (
    "method",
    "category id",
    "name",
    "frequency",
    "novel",
    "boxes",
    "AP box",
    "AP mask",
    "top-1",
    "most often confused with",
)


@dataclass(frozen=True, kw_only=True)
class ClassResults:
    """One method, class by class: K classes in the order of the dataset.

    Attributes:
        method: name of the row in every table.
        boxes: i64 [K], annotated boxes.
        ap_box, ap_mask, top1: f64 [K] as fractions, NaN where not measured.
        taken_for: i64 [K], the class it is most often taken for, -1 for none.
        taken: i64 [K], how many of its boxes are.
        confusion: of given boxes; None for proposals.
    """

    method: str
    boxes: NDArray[np.int64]
    ap_box: NDArray[np.float64]
    ap_mask: NDArray[np.float64]
    top1: NDArray[np.float64]
    taken_for: NDArray[np.int64]
    taken: NDArray[np.int64]
    confusion: Confusion | None


def class_results(scored: Scored, dataset: DetectionDataset, confusion: Confusion | None) -> ClassResults:
    """The classes of one method; `confusion` where boxes were given."""
    num_classes = len(dataset.class_names)
    nothing = np.full(num_classes, -1), np.zeros(num_classes, np.int64)
    taken_for, taken = nothing if confusion is None else confusion.most_often()
    return ClassResults(
        method=scored.name,
        boxes=np.bincount(dataset.labels, minlength=num_classes),
        ap_box=_by_class(scored, "bbox", dataset.category_ids),
        ap_mask=_by_class(scored, "segm", dataset.category_ids),
        top1=np.full(num_classes, np.nan) if confusion is None else 1 - confusion.top1_error(),
        taken_for=taken_for,
        taken=taken,
        confusion=confusion,
    )


def _by_class(scored: Scored, kind: IouType, category_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    ap = scored.average_precision.get(kind)
    found = dict(zip(ap.category_ids.tolist(), ap.per_category.tolist(), strict=True)) if ap else {}
    values = np.array([found.get(category, -1.0) for category in category_ids.tolist()])
    return np.where(values < 0, np.nan, values)


def write_per_class(path: Path, results: Sequence[ClassResults], dataset: DetectionDataset) -> None:
    """Writes one row a method and class as CSV (RFC 4180, UTF-8); what was not measured is empty."""
    with replacing(path) as staging, staging.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)  # ends lines with CR LF and quotes where needed, as RFC 4180 asks
        writer.writerow(COLUMNS)
        for result in results:
            writer.writerows(_row(result, dataset, c) for c in range(len(dataset.class_names)))


def _row(result: ClassResults, dataset: DetectionDataset, c: int) -> list[str | int]:
    fractions = [values[c] for values in (result.ap_box, result.ap_mask, result.top1)]
    return [
        result.method,
        int(dataset.category_ids[c]),
        dataset.class_names[c],
        dataset.class_frequency[c],
        "yes" if dataset.class_novel[c] else "no",
        int(result.boxes[c]),
        *("" if np.isnan(value) else f"{value:.6f}" for value in fractions),
        dataset.class_names[result.taken_for[c]] if result.taken_for[c] >= 0 else "",
    ]


def hardest(result: ClassResults, *, top: int, min_boxes: int) -> NDArray[np.intp]:
    """Classes [n] with the lowest box AP, of those with enough boxes; of equal ones the wrong more often."""
    enough = np.flatnonzero((result.boxes >= min_boxes) & ~np.isnan(result.ap_box))
    order = np.lexsort((-result.boxes[enough], np.nan_to_num(result.top1[enough]), result.ap_box[enough]))
    return enough[order][:top]
