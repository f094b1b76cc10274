"""Labels that are there against names that were found: agreement, confusions, doubtful boxes, a threshold."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.errors import InputError
from regionspot_cache.files import replacing

PAIRS = 10
COLUMNS = ("image", "x0", "y0", "x1", "y1", "label", "label_score", "best", "score", "doubt", "names")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was recognised in the boxes of a dataset.

    Attributes:
        rows: int32 [T, k], the best classes, best first; -1 where nothing is known.
        scores: float32 [T, k].
        margins: float32 [T].
        own: float32 [T], the score of the class that the box is labelled with; NaN where it is none of them.
    """

    rows: NDArray[np.int32]
    scores: NDArray[np.float32]
    margins: NDArray[np.float32]
    own: NDArray[np.float32]


def best_threshold(scores: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """The score at and above which names are to be kept: best balanced accuracy of telling right names.

    It is the mean of the shares of right names that are kept and of wrong ones that are not.

    Raises:
        InputError: no right or no wrong name to choose by.
    """
    if right.all() or not right.any():
        which = "wrong" if len(right) and right.all() else "right"
        raise InputError(
            f"--none-below auto: of {len(right)} labelled boxes none has a {which} name.",
            "Labelled boxes with right and with wrong names, also of classes that are not asked for.",
            "--none-below 0.5, or --examples with other classes too",
        )
    order = np.argsort(-scores, kind="stable")
    kept_right, kept_wrong = np.cumsum(right[order]), np.cumsum(~right[order])
    balanced = kept_right / kept_right[-1] - kept_wrong / kept_wrong[-1]
    balanced[:-1][scores[order][1:] == scores[order][:-1]] = -np.inf  # equal scores stay together
    return float(scores[order][int(np.argmax(balanced))])


def review(
    found: Found, dataset: DetectionDataset, labels: NDArray[np.int64], names: Sequence[str], path: Path
) -> dict[str, Any]:
    """Agreement and confusions; boxes whose name differs from their label, the most doubtful first, as CSV.

    Args:
        labels: [T], the class of each label, -1 where it is none of `names`.
    """
    judged = (labels >= 0) & (found.rows[:, 0] >= 0)
    wrong = np.flatnonzero(judged & (found.rows[:, 0] != labels))
    doubt = found.scores[wrong, 0] - found.own[wrong]
    wrong = wrong[np.argsort(-doubt, kind="stable")]
    pairs = Counter(zip(labels[wrong].tolist(), found.rows[wrong, 0].tolist(), strict=True))
    owner = np.repeat(np.arange(len(dataset)), np.diff(dataset.offsets))
    with replacing(path) as staging, staging.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in wrong.tolist():
            own, best = float(found.own[row]), float(found.scores[row, 0])
            numbers = [round(value, 6) for value in (own, best, best - own)]
            ranked = json.dumps([names[k] for k in found.rows[row].tolist()])
            label, name = dataset.class_names[dataset.labels[row]], names[found.rows[row, 0]]
            place = [dataset.file_names[owner[row]], *dataset.boxes[row].tolist()]
            writer.writerow([*place, label, numbers[0], name, *numbers[1:], ranked])
    total = int(judged.sum())
    confusions = [{"label": names[a], "best": names[b], "boxes": n} for (a, b), n in pairs.most_common(PAIRS)]
    return {
        "judged": total,
        "not_among_the_classes": int((labels < 0).sum()),
        "agreement": round(1 - len(wrong) / total, 4) if total else None,
        "confusions": confusions,
        "doubtful": len(wrong),
        "csv": str(path),
    }


def review_lines(facts: dict[str, Any]) -> list[str]:
    """A review for people."""
    if facts["agreement"] is None:
        return ["no label is among the classes"]
    lines = [f"{facts['agreement']:.1%} of {facts['judged']} labels agree"]
    if facts["not_among_the_classes"]:
        lines.append(f"{facts['not_among_the_classes']} boxes have no label among the classes")
    lines += [f"{pair['boxes']:6} {pair['label']} -> {pair['best']}" for pair in facts["confusions"]]
    return [*lines, f"{facts['doubtful']} doubtful boxes, the most doubtful first, are in {facts['csv']}"]
