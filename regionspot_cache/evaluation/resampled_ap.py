"""Average precision of many draws of the images, from one matching of detections and annotations.

Images do not share matches, so an image drawn twice is one whose detections and annotations count twice.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.evaluation.average_precision import Judged
from regionspot_cache.evaluation.ground_truth import GroundTruth
from regionspot_cache.evaluation.matching import MATCHED, UNMATCHED
from regionspot_cache.evaluation.metrics import RECALL_THRESHOLDS
from regionspot_cache.evaluation.significance import image_weights

_STEPS = len(RECALL_THRESHOLDS) - 1  # of recall, from 0 to 1


@dataclass(frozen=True, kw_only=True)
class WeightedPrecision:
    """AP of every category for any weights of the images; D detections, K of which overlap an annotation.

    Attributes:
        images: i64 [D], by category and falling score.
        counts: bool [D], whether a detection is a false positive unless it is matched.
        bounds: i64 [C+1], the detections of each category.
        hits: i64 [K], rows of detections, rising.
        outcome: u8 [K, T], for every IoU threshold.
        wanted_images: i64 [G], of the annotations to find, by category.
        wanted_bounds: i64 [C+1].
        num_images: M.
    """

    images: NDArray[np.int64]
    counts: NDArray[np.bool_]
    bounds: NDArray[np.int64]
    hits: NDArray[np.int64]
    outcome: NDArray[np.uint8]
    wanted_images: NDArray[np.int64]
    wanted_bounds: NDArray[np.int64]
    num_images: int

    @classmethod
    def of(cls, truth: GroundTruth, judged: Judged) -> Self:
        """From what was matched; objects of all sizes."""
        found, categories = judged.candidates, np.arange(len(truth.category_ids) + 1)
        order, hits, hit_place = judged.by_score()
        wanted = ~judged.ignore[:, 0]
        by_category = np.argsort(truth.categories[wanted], kind="stable")
        return cls(
            images=found.keys[order] // max(len(truth.category_ids), 1),
            counts=judged.counts_unmatched(truth, 0)[order],
            bounds=np.searchsorted(found.categories[order], categories),
            hits=hit_place,
            outcome=judged.matches.outcome[hits, 0],
            wanted_images=truth.images[wanted][by_category],
            wanted_bounds=np.searchsorted(truth.categories[wanted][by_category], categories),
            num_images=len(truth.image_ids),
        )

    @property
    def width(self) -> int:
        """Numbers that one draw needs at a time."""
        return max(self.outcome.size, len(self.images))

    def average_precision(self, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """f64 [b, C] for weights i64 [b, M]; NaN where a draw has nothing to find."""
        wanted = _sums(weights[:, self.wanted_images], self.wanted_bounds)  # [b,C]
        category = np.searchsorted(self.bounds, self.hits, side="right") - 1  # [K]
        starts = np.flatnonzero(np.diff(category, prepend=-1))  # the first hit of each category with any
        found = np.where(wanted > 0, 0.0, np.nan)
        if len(self.hits):
            true, false = self._true_and_false(weights, category, starts)
            precision = true / (false + true + np.spacing(1))
            best = _best_from_here(precision, category)
            recall = true / np.maximum(wanted[:, category, None], 1)
            reached = _reached(recall)
            new = np.diff(reached, axis=1, prepend=0)
            new[:, starts] = reached[:, starts]
            areas = np.add.reduceat(best * new, starts, axis=1).mean(axis=2) / (_STEPS + 1)
            found[:, category[starts]] += areas
        return found

    def _true_and_false(
        self, weights: NDArray[np.int64], category: NDArray[np.int64], starts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """True and false positives of the category up to each hit, i64 [b, K, T] each."""
        weight = weights[:, self.images]  # [b,D]
        total = np.cumsum(weight * self.counts, axis=1)
        before = np.concatenate([np.zeros((len(weights), 1), np.int64), total], axis=1)
        unmatched = total[:, self.hits] - before[:, self.bounds[category]]  # [b,K]
        hit = weight[:, self.hits, None]
        spared = hit * ((self.outcome != UNMATCHED) & self.counts[self.hits, None])
        of_hit = np.searchsorted(starts, np.arange(len(category)), side="right") - 1
        true = _within(hit * (self.outcome == MATCHED), starts, of_hit)
        return true, unmatched[:, :, None] - _within(spared, starts, of_hit)


def _within(
    values: NDArray[np.int64], starts: NDArray[np.int64], group: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Running sums [b, K, T] along K that begin anew at each start."""
    total = np.cumsum(values, axis=1)
    first = starts[group]
    return total - (total[:, first] - values[:, first])


def _best_from_here(precision: NDArray[np.float64], category: NDArray[np.int64]) -> NDArray[np.float64]:
    """The highest precision at this hit or a later one of its category, [b, K, T]."""
    # One pass over all: what is added makes every category higher than those after it.
    above = 2.0 * (category[-1] - category)[:, None]
    return np.maximum.accumulate((precision + above)[:, ::-1], axis=1)[:, ::-1] - above


def _reached(recall: NDArray[np.float64]) -> NDArray[np.int32]:
    """How many recall thresholds are reached, as `np.searchsorted(..., side="right")` says, but sooner."""
    highest = (recall * _STEPS + 1e-9).astype(np.int32)  # this threshold, or the one before it
    return highest + (RECALL_THRESHOLDS[highest] <= recall)


def _sums(values: NDArray[np.int64], bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    total = np.concatenate([np.zeros((len(values), 1), np.int64), np.cumsum(values, axis=1)], axis=1)
    return total[:, bounds[1:]] - total[:, bounds[:-1]]


def ap_samples(precision: WeightedPrecision, resamples: int, seed: int) -> NDArray[np.float64]:
    """AP in every draw of the images, the mean over the categories that a draw has: f64 [resamples]."""
    parts = [
        _mean(precision.average_precision(weights))
        for weights in image_weights(precision.num_images, resamples, seed, precision.width)
    ]
    return np.concatenate([np.zeros(0), *parts])


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of every row, without what is NaN; NaN where all are."""
    known = ~np.isnan(values)
    sums, counts = np.where(known, values, 0).sum(axis=1), known.sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
