"""AP of draws of the images is that of a dataset with the images as often as they were drawn."""

from typing import Any

import numpy as np
import pytest

from regionspot_cache.evaluation import Detections, evaluate
from regionspot_cache.evaluation.average_precision import counted, judge
from regionspot_cache.evaluation.ground_truth import ground_truth
from regionspot_cache.evaluation.resampled_ap import WeightedPrecision, ap_samples
from regionspot_cache.evaluation.significance import image_weights
from tests.evaluation.synthetic import Problem, annotations, detections


def problem(seed: int, federated: bool) -> tuple[dict[str, Any], Detections]:
    rng = np.random.default_rng(seed)
    size = Problem(federated=federated, masks=False)
    truth = annotations(rng, size)
    return truth, detections(rng, size, truth)


def weighted(truth: dict[str, Any], found: Detections) -> WeightedPrecision:
    known = ground_truth(truth)
    best, per_pair = counted(found, known, "standard")
    return WeightedPrecision.of(known, judge(known, best, "bbox", per_pair))


def repeated(
    truth: dict[str, Any], found: Detections, times: dict[int, int]
) -> tuple[dict[str, Any], Detections]:
    """The images as often as they say, copies under ids of their own."""
    copies = [(i, i + 10_000 * copy) for i, many in times.items() for copy in range(many)]
    images = {image["id"]: image for image in truth["images"]}
    objects = [
        a | {"image_id": new} for old, new in copies for a in truth["annotations"] if a["image_id"] == old
    ]
    more = {
        "images": [images[old] | {"id": new} for old, new in copies],
        "annotations": [a | {"id": number} for number, a in enumerate(objects, 1)],
    }
    parts = []
    for old, new in copies:
        rows = found.rows(found.image_ids.index(old))
        parts.append(
            Detections.of(
                new,
                boxes=found.boxes,
                box_index=found.box_index[rows],
                category_ids=found.category_ids[rows],
                scores=found.scores[rows],
            )
        )
    return truth | more, Detections.concatenate(parts)


@pytest.mark.parametrize("federated", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_of_all_images_once_it_is_ap(seed: int, federated: bool) -> None:
    truth, found = problem(seed, federated)
    whole = evaluate(found, truth, iou_types=["bbox"])["bbox"]
    ap = weighted(truth, found).average_precision(np.ones((1, len(truth["images"])), np.int64))
    expected = np.where(whole.per_category < 0, np.nan, whole.per_category)
    np.testing.assert_allclose(ap[0], expected, atol=1e-9)
    assert np.nanmean(ap) == pytest.approx(whole.metrics["AP"], abs=1e-9)


@pytest.mark.parametrize("federated", [True, False])
def test_a_draw_is_a_dataset_with_repeated_images(federated: bool) -> None:
    truth, found = problem(5, federated)
    ids = ground_truth(truth).image_ids
    precision = weighted(truth, found)
    samples = ap_samples(precision, 4, 3)
    for draw, sample in zip(np.concatenate(list(image_weights(len(ids), 4, 3))), samples, strict=True):
        times = dict(zip(ids, draw.tolist(), strict=True))
        again = evaluate(*reversed(repeated(truth, found, times)), iou_types=["bbox"])["bbox"]
        expected = np.where(again.per_category < 0, np.nan, again.per_category)
        np.testing.assert_allclose(precision.average_precision(draw[None])[0], expected, atol=1e-9)
        assert sample == pytest.approx(again.metrics["AP"], abs=1e-9)


def test_without_detections_ap_is_zero_and_without_objects_unknown() -> None:
    truth, found = problem(1, federated=True)
    empty = weighted(truth, found.take(np.zeros(0, np.int64)))
    ap = empty.average_precision(np.ones((2, len(truth["images"])), np.int64))
    assert np.nansum(ap) == 0
    nothing = weighted(truth | {"annotations": []}, found)
    assert np.isnan(ap_samples(nothing, 3, 0)).all()
