"""What classes of given boxes are taken for: sparse counts, and the confusion between near classes."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.errors import InputError

NEIGHBOURS = 10  # classes that count as near, of each class
ROWS = 256  # of the cosine matrix at a time: 13,204 classes make 14 MB of float32


class ConfusedPair(NamedTuple):
    """Two classes of which one is taken for the other."""

    true: int  # class index
    predicted: int  # class index
    count: int  # boxes of class `true` whose most probable class is `predicted`
    rate: float  # `count` over all boxes of class `true`
    similarity: float  # cosine of the two classes' text embeddings


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Counts of (true, most probable) classes: P pairs that occur, of K classes."""

    true: NDArray[np.int64]  # true and predicted: i64 [P], class indices, in rising order
    predicted: NDArray[np.int64]
    count: NDArray[np.int64]  # i64 [P], boxes
    num_classes: int  # K

    @cached_property
    def boxes(self) -> NDArray[np.int64]:
        """i64 [K], boxes of each class."""
        return np.bincount(self.true, self.count, self.num_classes).astype(np.int64)

    @cached_property
    def wrong(self) -> "Confusion":
        """The pairs of two different classes alone."""
        rows = self.true != self.predicted
        return replace(self, true=self.true[rows], predicted=self.predicted[rows], count=self.count[rows])

    def top1_error(self) -> NDArray[np.float64]:
        """f64 [K], share of each class's boxes with another most probable class; NaN without boxes."""
        errors = self.wrong.boxes
        return np.divide(errors, self.boxes, out=np.full(self.num_classes, np.nan), where=self.boxes > 0)

    def most_often(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What each class is mostly taken for, i64 [K] (-1: none; the lower of equals), and i64 [K] boxes."""
        wrong = self.wrong
        order = np.lexsort((-wrong.predicted, wrong.count))  # the last one written to a class stays
        taken_for = np.full(self.num_classes, -1, np.int64)
        boxes = np.zeros(self.num_classes, np.int64)
        taken_for[wrong.true[order]] = wrong.predicted[order]
        boxes[wrong.true[order]] = wrong.count[order]
        return taken_for, boxes

    def near_pairs(self, text: NDArray[np.float32], *, neighbours: int = NEIGHBOURS) -> list[ConfusedPair]:
        """Confused pairs of near classes: each is among the other's nearest by cosine. Most boxes first.

        `text` f32 [K,E] are the embeddings of the classes, of which as many `neighbours` count as near.
        """
        if text.ndim != 2 or len(text) != self.num_classes:
            raise InputError(f"text embeddings {list(text.shape)}", f"[{self.num_classes}, E]")
        norms = np.linalg.norm(text, axis=1, keepdims=True)
        wrong, unit = self.wrong, (text / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32)
        forth, similarity = _ranks(unit, wrong.true, wrong.predicted)
        back, _ = _ranks(unit, wrong.predicted, wrong.true)
        near = np.flatnonzero((forth < neighbours) & (back < neighbours))
        near = near[np.argsort(-wrong.count[near], kind="stable")]
        rate = wrong.count / self.boxes[wrong.true]
        columns = (wrong.true, wrong.predicted, wrong.count, rate, similarity)
        rows = zip(*(column[near].tolist() for column in columns), strict=True)
        return [ConfusedPair(*row) for row in rows]


class ConfusionMeter:
    """Counts the most probable class of given boxes; memory follows the pairs that occur, not K x K."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._pairs: Counter[int] = Counter()  # true * K + predicted -> boxes

    def update(self, probabilities: NDArray[np.float32], labels: NDArray[np.int32]) -> None:
        """Adds boxes by probabilities [N,K] and labels i32 [N]; the lower of equal class indices counts."""
        if probabilities.shape != (len(labels), self._num_classes):
            raise InputError(
                f"probabilities {list(probabilities.shape)} for {len(labels)} boxes",
                f"[{len(labels)}, {self._num_classes}]",
            )
        if len(labels):
            codes = labels.astype(np.int64) * self._num_classes + probabilities.argmax(axis=1)
            self._pairs.update(codes.tolist())

    def result(self) -> Confusion:
        """The counts so far."""
        codes = np.array(sorted(self._pairs), np.int64)
        count = np.array([self._pairs[code] for code in codes.tolist()], np.int64)
        return Confusion(
            true=codes // self._num_classes,
            predicted=codes % self._num_classes,
            count=count,
            num_classes=self._num_classes,
        )


def _ranks(
    unit: NDArray[np.float32], of: NDArray[np.int64], among: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For pairs [P] of rows: how many other rows are nearer to `of` than `among` is, and their cosine."""
    ranks, cosines = np.zeros(len(of), np.int64), np.zeros(len(of), np.float32)
    rows, which = np.unique(of, return_inverse=True)
    for start in range(0, len(rows), ROWS):
        similarity = unit[rows[start : start + ROWS]] @ unit.T  # [R,K]
        similarity[np.arange(len(similarity)), rows[start : start + ROWS]] = -np.inf  # itself
        for pair in np.flatnonzero((which >= start) & (which < start + ROWS)):
            row = similarity[which[pair] - start]
            cosines[pair] = row[among[pair]]
            ranks[pair] = (row > cosines[pair]).sum()
    return ranks, cosines
