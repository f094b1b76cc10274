"""How often the class of given boxes is right, and what it is taken for: sparse counts, near classes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.errors import InputError
from regionspot_cache.evaluation.metrics import NOT_MEASURED

TOP = (1, 5)


class AccuracyMeter:
    """Counts right answers box by box; memory follows the number of classes."""

    def __init__(self, num_classes: int) -> None:
        self._boxes = np.zeros(num_classes, np.int64)
        self._right = np.zeros((len(TOP), num_classes), np.int64)

    def update(self, scores: np.ndarray, labels: np.ndarray) -> None:
        """Adds boxes by scores [N,C] and labels i32 [N]; of equal scores the lower class index is first."""
        if scores.shape != (len(labels), len(self._boxes)) or not np.isfinite(scores).all():
            raise InputError(
                f"scores of shape {scores.shape} for {len(labels)} boxes, or not all finite",
                f"finite scores [{len(labels)}, {len(self._boxes)}]",
                "score every box with every class",
            )
        own = np.take_along_axis(scores, labels[:, None].astype(np.int64), axis=1)  # [N,1]
        before = (scores == own) & (np.arange(len(self._boxes)) < labels[:, None])
        rank = ((scores > own) | before).sum(axis=1)
        np.add.at(self._boxes, labels, 1)
        for row, top in zip(self._right, TOP, strict=True):
            np.add.at(row, labels[rank < top], 1)

    def summary(
        self, frequency: Sequence[str] = (), subsets: Mapping[str, Sequence[int]] | None = None
    ) -> dict[str, float]:
        """Accuracies as fractions; -1 for groups without boxes.

        Args:
            frequency: [C] of "r", "c", "f", or empty.
            subsets: names and class indices of further groups, for example {"novel": [...]}.

        Returns:
            "boxes", "top1", "top5", "top1 mean over classes"; "top1 r", "top5 r", ... where frequencies are
            known; "top1 novel", "top5 novel" for every subset.
        """
        everything = np.arange(len(self._boxes))
        groups: dict[str, np.ndarray] = {"": everything}
        letters = np.array(list(frequency))
        groups |= {f" {letter}": everything[letters == letter] for letter in "rcf" if letter in frequency}
        groups |= {f" {name}": np.asarray(members, np.int64) for name, members in (subsets or {}).items()}
        summary = {"boxes": float(self._boxes.sum())}
        for name, members in groups.items():
            boxes = self._boxes[members].sum()
            for top, right in zip(TOP, self._right, strict=True):
                summary[f"top{top}{name}"] = float(right[members].sum() / boxes) if boxes else NOT_MEASURED
        seen = np.flatnonzero(self._boxes)
        means = self._right[0, seen] / self._boxes[seen]
        summary["top1 mean over classes"] = float(means.mean()) if seen.size else NOT_MEASURED
        return summary


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
