"""What differs between two methods, object by object and class by class."""

import numpy as np
import pytest

from regionspot_cache.evaluation.comparison import Compared, compare
from regionspot_cache.evaluation.significance import mcnemar
from tests.store.small_world import make_dataset


def method(name: str, right: np.ndarray | None, class_ap: tuple[float, ...], ap: float = 0.5) -> Compared:
    return Compared(
        name=name, ap=ap, ap_samples=np.full(20, ap), right=right, class_ap=np.array(class_ap, np.float64)
    )


def test_objects_are_counted_by_who_names_them_right() -> None:
    dataset = make_dataset(30)
    labels = dataset.labels
    first = labels == 0
    second = (labels == 1) | (first & (np.cumsum(first) > 2))
    found = compare(method("a", first, (0.9, 0.1, 0)), method("b", second, (0.8, 0.7, np.nan)), dataset, 0)
    count = np.bincount(labels, minlength=3)
    assert found.objects is not None
    assert found.objects.to_json() == {
        "both_right": count[0] - 2,
        "became_right": count[1],
        "became_wrong": 2,
        "both_wrong": count[2],
        "mcnemar_p": mcnemar(2, count[1]),
    }
    assert [(c.name, c.became_right, c.became_wrong) for c in found.gained] == [("dog", count[1], 0)]
    assert [(c.name, c.became_right, c.became_wrong) for c in found.lost] == [("cat", 0, 2)]
    assert (found.gained[0].ap_first, found.gained[0].ap_second) == (0.1, 0.7)
    top1 = found.measures["top1"]
    assert top1.difference == pytest.approx((count[1] - 2) / len(labels))
    assert top1.low <= top1.difference <= top1.high
    assert found.to_json()["measures"]["box AP"]["difference"] == 0


def test_detections_alone_are_compared_by_ap() -> None:
    dataset = make_dataset(5)
    right = np.ones(len(dataset.labels), bool)
    found = compare(
        method("a", right, (0.5, 0.5, np.nan)), method("file", None, (0.7, 0.4, 0.3), 0.6), dataset, 0
    )
    assert found.objects is None
    assert list(found.measures) == ["box AP"]
    assert [c.name for c in found.gained] == ["cat"]
    assert [c.name for c in found.lost] == ["dog"]
    assert found.lost[0].became_right is None
    assert found.to_json()["objects"] is None
