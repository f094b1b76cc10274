"""What is different between two methods on the same images, and whether it is more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.records import DetectionDataset
from regionspot_cache.evaluation.significance import Difference, accuracy_samples, difference, mcnemar

CLASSES = 10  # that changed most, each way


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One method in a comparison; T annotated objects.

    Attributes:
        ap: box AP as a fraction, and f64 [resamples] in draws of the images.
        right: bool [T], objects that are named right; None where only detections are known.
        class_ap: f64 [K] in the order of the dataset's classes; NaN where not measured.
    """

    name: str
    ap: float
    ap_samples: NDArray[np.float64]
    right: NDArray[np.bool_] | None
    class_ap: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ObjectChanges:
    """Objects of K classes by whom they are named right.

    Attributes:
        became_right: i64 [K], objects of each class that the second method alone names right.
        became_wrong: i64 [K], that the first alone does.
    """

    both: int
    neither: int
    became_right: NDArray[np.int64]
    became_wrong: NDArray[np.int64]

    @classmethod
    def of(cls, first: NDArray[np.bool_], second: NDArray[np.bool_], dataset: DetectionDataset) -> Self:
        """From what two methods name right, bool [T] each."""
        labels, classes = dataset.labels, len(dataset.class_names)
        return cls(
            both=int((first & second).sum()),
            neither=int((~first & ~second).sum()),
            became_right=np.bincount(labels[second & ~first], minlength=classes),
            became_wrong=np.bincount(labels[first & ~second], minlength=classes),
        )

    @cached_property
    def p_value(self) -> float:
        """Of McNemar's exact test."""
        return mcnemar(int(self.became_wrong.sum()), int(self.became_right.sum()))

    def to_json(self) -> dict[str, Any]:
        """Counts over all classes."""
        right, wrong = int(self.became_right.sum()), int(self.became_wrong.sum())
        counts = {"both_right": self.both, "became_right": right, "became_wrong": wrong}
        return {**counts, "both_wrong": self.neither, "mcnemar_p": self.p_value}


@dataclass(frozen=True, kw_only=True)
class ClassChange:
    """One class; AP as fractions, None where not measured; objects None where only detections are known."""

    name: str
    ap_first: float | None
    ap_second: float | None
    became_right: int | None
    became_wrong: int | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The second method against the first.

    Attributes:
        measures: "box AP", and "top1" where objects are known: the share of them that are named right.
        gained, lost: the classes that changed most, by objects where known, else by AP.
    """

    first: str
    second: str
    measures: Mapping[str, Difference]
    objects: ObjectChanges | None
    gained: Sequence[ClassChange]
    lost: Sequence[ClassChange]

    def to_json(self) -> dict[str, Any]:
        """All of it, with fractions."""
        return {
            "first": self.first,
            "second": self.second,
            "measures": {name: found.to_json() for name, found in self.measures.items()},
            "objects": None if self.objects is None else self.objects.to_json(),
            "gained": [asdict(change) for change in self.gained],
            "lost": [asdict(change) for change in self.lost],
        }


def compare(first: Compared, second: Compared, dataset: DetectionDataset, seed: int) -> Comparison:
    """Compares two methods; both must have been resampled with this seed, as often as their samples say."""
    measures = {"box AP": difference(first.ap, second.ap, first.ap_samples, second.ap_samples)}
    objects = None
    if first.right is not None and second.right is not None:
        objects = ObjectChanges.of(first.right, second.right, dataset)
        measures["top1"] = _accuracy(first.right, second.right, dataset, len(first.ap_samples), seed)
        change = (objects.became_right - objects.became_wrong).astype(np.float64)
    else:
        change = np.nan_to_num(second.class_ap - first.class_ap)
    order = np.argsort(change, kind="stable")
    lost = [c for c in order[:CLASSES].tolist() if change[c] < 0]
    gained = [c for c in np.argsort(-change, kind="stable")[:CLASSES].tolist() if change[c] > 0]

    def changes(classes: Sequence[int]) -> list[ClassChange]:
        return [
            ClassChange(
                name=dataset.class_names[c],
                ap_first=_finite(first.class_ap[c]),
                ap_second=_finite(second.class_ap[c]),
                became_right=None if objects is None else int(objects.became_right[c]),
                became_wrong=None if objects is None else int(objects.became_wrong[c]),
            )
            for c in classes
        ]

    return Comparison(
        first=first.name,
        second=second.name,
        measures=measures,
        objects=objects,
        gained=changes(gained),
        lost=changes(lost),
    )


def _accuracy(
    first: NDArray[np.bool_], second: NDArray[np.bool_], dataset: DetectionDataset, resamples: int, seed: int
) -> Difference:
    image_of = np.repeat(np.arange(len(dataset)), np.diff(dataset.offsets))
    a, b = (accuracy_samples(right, image_of, len(dataset), resamples, seed) for right in (first, second))
    share, other = (float(right.mean()) if len(right) else float("nan") for right in (first, second))
    return difference(share, other, a, b)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
