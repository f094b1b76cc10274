"""Fixed AP: the best detections of each category over the dataset."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot_cache.evaluation import (
    BestOfCategories,
    BestOfImages,
    Collector,
    DetectionProtocol,
    Detections,
    encode_mask,
    evaluate,
)
from regionspot_cache.evaluation import detections as module
from regionspot_cache.evaluation.detections import PER_CATEGORY, MaskTable
from regionspot_cache.evaluation.reference import load_lvis_api
from regionspot_cache.evaluation.results_file import image_entries
from tests.evaluation.synthetic import Problem, annotations, detections, perfect_detections


def top_of_each(found: Detections, count: int) -> list[dict]:
    """The entries of the best `count` of each category, by plain sorting."""
    kinds = ("bbox", "segm")
    entries = [
        {**box, **mask}
        for i in range(len(found.image_ids))
        for box, mask in zip(*(image_entries(found, i, kind) for kind in kinds), strict=True)
    ]
    kept = []
    for category in sorted({entry["category_id"] for entry in entries}):
        own = [entry for entry in entries if entry["category_id"] == category]
        kept += sorted(own, key=lambda entry: -entry["score"])[:count]
    return kept


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_equals_the_lvis_package_without_its_cap(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lvis with max_dets=-1 on what is left of each category, as Dave et al. score."""
    best = 60
    monkeypatch.setattr(Detections.best_of_categories, "__defaults__", (best,))
    rng = np.random.default_rng(0)
    truth = annotations(rng, Problem(images=6, detections=400, classes=5))
    found = detections(rng, Problem(detections=400, classes=5), truth)
    assert np.diff(found.offsets).max() > 300  # standard AP would cut
    api = load_lvis_api()
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    reference_truth = api.LVIS(str(tmp_path / "gt.json"))
    known = {category["id"] for category in truth["categories"]}
    entries = [e for e in top_of_each(found, best) if e["category_id"] in known]
    other = {"bbox": "segmentation", "segm": "bbox"}[kind]
    entries = [{name: value for name, value in e.items() if name != other} for e in entries]
    results = api.LVISResults(reference_truth, entries, max_dets=-1)
    reference = api.LVISEval(reference_truth, results, kind)
    reference.run()
    theirs = reference.get_results()
    ours = evaluate(found, truth, iou_types=[kind], ap="fixed")[kind].metrics
    assert 0.05 < ours["AP"] < 0.95
    assert ours["AP"] != evaluate(found, truth, iou_types=[kind])[kind].metrics["AP"]
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-12), name


@pytest.mark.parametrize("federated", [True, False])
def test_fast_equals_reference(federated: bool) -> None:
    """COCO's 100 of an image and category do not apply either."""
    rng = np.random.default_rng(0)
    problem = Problem(images=3, classes=1, detections=260, federated=federated)
    truth = annotations(rng, problem)
    found = detections(rng, problem, truth)
    fast = evaluate(found, truth, ap="fixed")
    slow = evaluate(found, truth, ap="fixed", fast=False)
    for kind, ours in fast.items():
        assert ours.metrics == pytest.approx(slow[kind].metrics, abs=1e-12)
    if not federated:
        assert fast["bbox"].metrics != evaluate(found, truth)["bbox"].metrics


@given(st.integers(0, 10**6), st.integers(1, 7), st.booleans())
def test_best_of_categories_equals_plain_sort(seed: int, best: int, tied: bool) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 40))
    scores = rng.random(count)
    found = Detections(
        image_ids=(1, 2, 3),
        offsets=np.array([0, count // 3, count // 2, count]),
        category_ids=rng.integers(0, 4, count).astype(np.int32),
        scores=np.round(scores, 1) if tied else scores,
        box_index=np.arange(count, dtype=np.int32),
        boxes=np.zeros((count, 4)),
        masks=None,
    )
    kept = found.best_of_categories(best).box_index.tolist()
    expected = []
    for category in range(4):
        own = [row for row in range(count) if found.category_ids[row] == category]
        expected += sorted(own, key=lambda row: -found.scores[row])[:best]
    assert kept == sorted(expected)


def test_ten_thousand_of_a_class() -> None:
    assert PER_CATEGORY == module.PER_CATEGORY == 10_000
    assert Detections.best_of_categories.__defaults__ == (10_000,)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([1, 5, 10**6]), st.booleans(), st.booleans())
def test_collected_by_category(seed: int, room: int, tied: bool, with_masks: bool) -> None:
    """Whatever the memory allowed between compactions, the pairs are those of one sort over the dataset."""
    rng = np.random.default_rng(seed)
    categories, best = np.array([2, 3, 9]), 6
    collector = BestOfCategories(categories, best)
    collector._room = room
    pairs = []
    masks = [encode_mask(mask) for mask in rng.random((40, 4, 5)) < 0.5]
    for image in range(5):
        boxes = rng.random((int(rng.integers(0, 6)), 4)).astype(np.float32)
        probabilities = rng.random((len(boxes), 3)).astype(np.float32)
        objectness = rng.random(len(boxes)).astype(np.float32)
        if tied:
            probabilities, objectness = probabilities.round(1), np.ones_like(objectness)
        own = MaskTable.from_rles(masks[image * 8 : image * 8 + 8])
        chosen = collector.select(
            image, boxes, probabilities, objectness, "product", own if with_masks else None
        )
        collector.add(chosen)
        scores = probabilities * objectness[:, None]
        pairs += [
            (c, -scores[b, c], image, b, boxes[b].tolist()) for b in range(len(boxes)) for c in range(3)
        ]
    expected = []
    for c in range(3):
        expected += sorted((p for p in pairs if p[0] == c), key=lambda p: p[:4])[:best]
    expected.sort(key=lambda p: (p[2], p[3], p[0]))
    found = collector.build()
    assert found.image_ids == (0, 1, 2, 3, 4)
    assert found.image_of_row.tolist() == [p[2] for p in expected]
    assert found.category_ids.tolist() == [categories[p[0]] for p in expected]
    assert found.scores.tolist() == [-p[1] for p in expected]
    assert found.boxes[found.box_index].tolist() == [p[4] for p in expected]
    assert len(found.boxes) == len({(p[2], p[3]) for p in expected})
    if with_masks and expected:
        assert found.masks.rles(found.box_index) == [masks[p[2] * 8 + p[3]] for p in expected]


def test_collecting_twice_is_collecting_once() -> None:
    collector = BestOfCategories(np.array([1, 2]), 2)
    for image in range(3):
        probabilities = np.full((4, 2), image / 4)
        collector.add(collector.select(image, np.eye(4, dtype=np.float32), probabilities, None, "product"))
    first, second = collector.build(), collector.build()
    assert first.scores.tolist() == second.scores.tolist() == [0.5] * 4


@pytest.mark.parametrize(
    "make", [lambda ids: BestOfImages(ids, DetectionProtocol(top_k=5)), BestOfCategories]
)
def test_an_image_whose_masks_fail_leaves_no_trace(make: Callable[[np.ndarray], Collector]) -> None:
    class Gone:
        def take(self, boxes: np.ndarray) -> MaskTable:
            raise FileNotFoundError

    ids, boxes = np.array([1, 2]), np.eye(4, dtype=np.float32)
    masks = MaskTable.from_rles([encode_mask(np.ones((3, 3), bool))] * 4)
    undisturbed, disturbed = make(ids), make(ids)
    for image in range(4):
        values = boxes + image, np.full((4, 2), 0.1 + image / 8), None, "product"
        for collector in (undisturbed, disturbed):
            if collector is disturbed or image != 2:
                with suppress(FileNotFoundError):
                    source = Gone() if image == 2 else masks
                    collector.add(collector.select(image, *values, source))
    expected, found = undisturbed.build(), disturbed.build()
    assert found.image_ids == expected.image_ids == (0, 1, 3)
    np.testing.assert_array_equal(found.boxes[found.box_index], expected.boxes[expected.box_index])
    assert found.masks.data == expected.masks.data


def test_standard_collects_the_best_of_images() -> None:
    collector = BestOfImages(np.array([4, 8]), DetectionProtocol(top_k=3))
    probabilities = np.array([[0.9, 0.1], [0.5, 0.4]])
    collector.add(collector.select(1, np.zeros((2, 4), np.float32), probabilities, None, "product"))
    found = collector.build()
    assert found.category_ids.tolist() == [4, 4, 8]
    assert found.scores.tolist() == pytest.approx([0.9, 0.5, 0.4])


def test_oracle_is_one() -> None:
    truth = annotations(np.random.default_rng(3), Problem(images=20))
    for result in evaluate(perfect_detections(truth), truth, ap="fixed").values():
        assert result.metrics["AP"] == pytest.approx(1, abs=1e-12)
