"""From precision curves to the numbers of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np

# linspace, not arange: the thresholds of lvis and pycocotools, to the last bit.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
AREA_NAMES = ("all", "small", "medium", "large")
AREA_RANGES = np.array([[0, 1e10], [0, 32.0**2], [32.0**2, 96.0**2], [96.0**2, 1e10]])  # pixels, both ends in
NOT_MEASURED = -1.0  # no annotation to find


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Axes: T IoU thresholds, R recalls, C categories, A area ranges. -1 where there is nothing to find."""

    precision: np.ndarray  # f64 [T,R,C,A], the best precision at this recall or more
    recall: np.ndarray  # f64 [T,C,A], with all detections

    @classmethod
    def empty(cls, num_categories: int) -> Self:
        # What is filled in together, the recalls of a threshold, lies together.
        shape = (num_categories, len(AREA_NAMES), len(IOU_THRESHOLDS))
        return cls(
            precision=np.full((*shape, len(RECALL_THRESHOLDS)), NOT_MEASURED).transpose(2, 3, 0, 1),
            recall=np.full(shape, NOT_MEASURED).transpose(2, 0, 1),
        )

    def set(self, area: int, category: int, hits: np.ndarray, false: np.ndarray, wanted: int) -> None:
        """Fills in one category with `wanted` annotations, at least 1.

        `hits` bool [K,T] say whether a detection is a true positive, by falling score; others may be left
        out, for precision is highest at true positives. `false` i64 [K,T] are the false positives up to here.
        """
        self.recall[:, category, area] = hits.sum(axis=0) / wanted
        true = hits.cumsum(axis=0)  # [K,T]
        row, threshold = np.nonzero(hits)
        found = true[row, threshold]  # the how many-th true positive it is
        # By threshold and true positives; 0 where there are not so many.
        precision = np.zeros((len(IOU_THRESHOLDS), wanted + 1))
        precision[threshold, found - 1] = found / (false[row, threshold] + found + np.spacing(1))
        best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        self.precision[:, :, category, area] = best_from_here[:, _needed(wanted)]


@lru_cache(maxsize=4096)
def _needed(wanted: int) -> np.ndarray:
    """i64 [R], how many of `wanted` true positives, less one, reach each recall."""
    return np.searchsorted(np.arange(1.0, wanted + 1) / wanted, RECALL_THRESHOLDS)


@dataclass(frozen=True, kw_only=True)
class AveragePrecision:
    """AP as fractions; -1 where there is nothing to find."""

    # AP, AP50, AP75, APs, APm, APl, AR (recall with all capped detections, mean over thresholds); "AP <name>"
    # for every subset asked for; APr, APc, APf where categories have frequencies, else "AP50 <name>"
    metrics: dict[str, float]
    category_ids: np.ndarray  # i64 [C]
    per_category: np.ndarray  # f64 [C], AP of each category

    def to_json(self) -> dict[str, Any]:
        per_category = {
            str(category): ap
            for category, ap in zip(self.category_ids.tolist(), self.per_category.tolist(), strict=True)
        }
        return {"metrics": self.metrics, "per_category": per_category}


def summarize(
    curves: Curves,
    category_ids: np.ndarray,
    frequency: Sequence[str] | None,
    subsets: Mapping[str, Sequence[int]],
) -> AveragePrecision:
    """The metrics of a table, from curves of the categories [C] in this order."""
    precision = curves.precision
    metrics = {
        "AP": _mean(precision[..., 0]),
        "AP50": _mean(precision[0, ..., 0]),
        "AP75": _mean(precision[5, ..., 0]),
        "APs": _mean(precision[..., 1]),
        "APm": _mean(precision[..., 2]),
        "APl": _mean(precision[..., 3]),
    }
    if frequency is not None:
        letters = np.array(frequency)
        metrics |= {f"AP{letter}": _mean(precision[:, :, letters == letter, 0]) for letter in "rcf"}
    for name, members in subsets.items():
        group = precision[:, :, np.isin(category_ids, list(members)), 0]
        metrics[f"AP {name}"] = _mean(group)
        if frequency is None:  # what open-vocabulary detection on COCO reports
            metrics[f"AP50 {name}"] = _mean(group[0])
    metrics["AR"] = _mean(curves.recall[..., 0])
    # All values of a category are measured or none; as `_mean`, to the last bit.
    of_category = precision[..., 0].transpose(2, 0, 1).reshape(len(category_ids), precision[..., 0, 0].size)
    return AveragePrecision(
        metrics=metrics, category_ids=np.asarray(category_ids), per_category=of_category.mean(axis=1)
    )


def _mean(values: np.ndarray) -> float:
    measured = values[values > NOT_MEASURED]
    return float(measured.mean()) if measured.size else NOT_MEASURED
