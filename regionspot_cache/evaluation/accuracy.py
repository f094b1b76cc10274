"""How often the class of a given box is right: the direct measure for ground-truth boxes."""

from collections.abc import Mapping, Sequence

import numpy as np

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
