"""AP against the lvis package and pycocotools, and the rules one by one."""

import copy
import json
import logging
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot_cache.errors import InputError, MissingFileError
from regionspot_cache.evaluation import Detections, evaluate
from regionspot_cache.evaluation.reference import load_lvis_api
from tests.evaluation.synthetic import Problem, annotations, detections, perfect_detections

SHARED = Path(__file__).parents[2].parent / "shared"
LVIS_SAMPLE = SHARED / "annotation-samples" / "lvis_v0.5_val_100.json"
COCO_SAMPLE = SHARED / "real-images" / "instances.json"


def assert_same(left: dict, right: dict) -> None:
    for kind, fast in left.items():
        reference = right[kind]
        assert fast.metrics.keys() == reference.metrics.keys()
        for name, value in fast.metrics.items():
            assert value == pytest.approx(reference.metrics[name], abs=1e-12), (kind, name)
        np.testing.assert_allclose(fast.per_category, reference.per_category, atol=1e-12)


def single(*rows: tuple[list[float], int, float], image_id: int = 1) -> Detections:
    """Detections (xyxy, category, score) of one image."""
    parts = []
    parts.append(
        Detections.of(
            image_id,
            boxes=np.array([row[0] for row in rows], np.float64).reshape(-1, 4),
            box_index=np.arange(len(rows)),
            category_ids=np.array([row[1] for row in rows], np.int64),
            scores=np.array([row[2] for row in rows], np.float32),
        )
    )
    return Detections.concatenate(parts)


def federated(**image: list[int]) -> dict:
    """One 100x100 image; category 1 (rare) has one box, categories 2 and 3 none."""
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []} | image
    return {
        "images": [{"id": 1, "width": 100, "height": 100, **lists}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "area": 1600}],
        "categories": [{"id": c, "name": str(c), "frequency": "rcf"[c - 1]} for c in (1, 2, 3)],
    }


HIT = ([10, 10, 50, 50], 1, 0.5)


def box_ap(found: Detections, truth: dict, **options: object) -> dict[str, float]:
    return evaluate(found, truth, iou_types=["bbox"], **options)["bbox"].metrics


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    federated=st.booleans(),
    tied=st.booleans(),
    count=st.sampled_from([2, 30, 90]),
    classes=st.sampled_from([1, 3, 9]),
)
def test_fast_equals_reference(seed: int, federated: bool, tied: bool, count: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    problem = Problem(images=6, detections=count, classes=classes, tied_scores=tied, federated=federated)
    truth = annotations(rng, problem)
    found = detections(rng, problem, truth)
    options = {"subsets": {"novel": [1, 4]}, "cap": 50}
    before = copy.deepcopy(truth)
    assert_same(evaluate(found, truth, **options), evaluate(found, truth, fast=False, **options))
    assert truth == before


@pytest.mark.parametrize("federated", [True, False])
def test_fast_equals_reference_beyond_100_of_a_category(federated: bool) -> None:
    """COCO takes 100 detections per image and category, LVIS does not."""
    rng = np.random.default_rng(0)
    problem = Problem(images=3, classes=1, detections=260, federated=federated)
    truth = annotations(rng, problem)
    found = detections(rng, problem, truth)
    assert all(np.count_nonzero(found.category_ids[found.rows(i)] == 1) > 100 for i in range(3))
    assert_same(evaluate(found, truth), evaluate(found, truth, fast=False))


def test_problems_are_not_trivial() -> None:
    """The parity above means something only where values differ from 0, 1 and -1."""
    rng = np.random.default_rng(0)
    truth = annotations(rng, Problem(images=30))
    result = evaluate(detections(rng, Problem(), truth), truth)
    for kind in ("bbox", "segm"):
        assert all(0.05 < value < 0.95 for value in result[kind].metrics.values())
    assert result["bbox"].metrics["AP"] != result["segm"].metrics["AP"]


@pytest.mark.parametrize("federated", [True, False])
@pytest.mark.parametrize("fast", [True, False])
def test_oracle_is_one(federated: bool, fast: bool) -> None:
    truth = annotations(np.random.default_rng(3), Problem(images=20, federated=federated))
    if not federated:  # a crowd has no detection of its own
        truth["annotations"] = [a for a in truth["annotations"] if not a["iscrowd"]]
    for result in evaluate(perfect_detections(truth), truth, fast=fast).values():
        assert result.metrics["AP"] == pytest.approx(1, abs=1e-12)
        assert set(np.unique(result.per_category.round(12))) <= {-1.0, 1.0}


@pytest.mark.skipif(not LVIS_SAMPLE.exists(), reason="no shared sample")
def test_real_lvis_sample() -> None:
    truth = json.loads(LVIS_SAMPLE.read_text())
    oracle = evaluate(perfect_detections(truth), LVIS_SAMPLE)
    for result in oracle.values():
        named = {name: result.metrics[name] for name in ("AP", "AP50", "AP75", "APs", "APr", "APc", "APf")}
        assert named == pytest.approx(dict.fromkeys(named, 1.0), abs=1e-12)
    found = spoiled(perfect_detections(truth))
    few = [image["id"] for image in truth["images"][:25]]  # the reference is slow
    found = found.take(np.flatnonzero(np.isin(found.image_of_row, range(25))))
    found = Detections(**dict(vars(found), image_ids=found.image_ids[:25], offsets=found.offsets[:26]))
    assert_same(evaluate(found, truth, image_ids=few), evaluate(found, truth, image_ids=few, fast=False))


@pytest.mark.skipif(not COCO_SAMPLE.exists(), reason="no shared sample")
def test_real_coco_sample() -> None:
    truth = json.loads(COCO_SAMPLE.read_text())
    found = spoiled(perfect_detections(truth))
    fast = evaluate(found, COCO_SAMPLE)
    assert 0.02 < fast["segm"].metrics["AP"] < 0.98
    assert_same(fast, evaluate(found, COCO_SAMPLE, fast=False))


def spoiled(found: Detections) -> Detections:
    """Random scores, every third box moved, every fifth with the category of another one."""
    rng = np.random.default_rng(0)
    columns = dict(vars(found))
    moved = found.boxes.copy()
    sides = moved[:, 2:] - moved[:, :2]
    moved[::3] += np.tile(0.08 * sides[::3], 2)
    categories = found.category_ids.copy()
    categories[::5] = rng.permutation(categories[::5])
    columns |= {"boxes": moved, "category_ids": categories, "scores": rng.random(len(found))}
    return Detections(**columns)


def test_equals_faster_coco_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    # It tries to import OpenCV: without libxcb that fails and leaves a folder with a `typing` on the path.
    monkeypatch.setattr(sys, "path", [*sys.path])
    from faster_coco_eval import COCO, COCOeval_faster

    rng = np.random.default_rng(5)
    problem = Problem(images=15, masks=False)
    truth = annotations(rng, problem)
    truth["annotations"] = [a for a in truth["annotations"] if "ignore" not in a]
    found = detections(rng, problem, truth).capped(30)
    from regionspot_cache.evaluation.results_file import image_entries

    entries = [entry for i in range(len(found.image_ids)) for entry in image_entries(found, i, "bbox")]
    known = {category["id"] for category in truth["categories"]}
    entries = [entry for entry in entries if entry["category_id"] in known]
    other_truth = COCO(copy.deepcopy(truth))
    other = COCOeval_faster(other_truth, other_truth.loadRes(entries), "bbox", lvis_style=True)
    other.params.maxDets = [300]
    other.run()
    ours = box_ap(found, truth)
    names = {"AP": "AP_all", "AP50": "AP_50", "AP75": "AP_75", "APs": "AP_small", "APr": "APr", "APc": "APc"}
    for own, theirs in names.items():
        assert ours[own] == pytest.approx(other.stats_as_dict[theirs], abs=1e-6), own


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("with_truth", [True, False])
@pytest.mark.parametrize("is_federated", [True, False])
def test_no_detections(fast: bool, with_truth: bool, is_federated: bool) -> None:
    truth = annotations(np.random.default_rng(0), Problem(federated=is_federated))
    if not with_truth:
        truth["annotations"] = []
    results = evaluate(Detections.concatenate([]), truth, fast=fast)
    assert {result.metrics["AP"] for result in results.values()} == {0.0 if with_truth else -1.0}
    assert {result.metrics["AP50"] for result in results.values()} == {0.0 if with_truth else -1.0}


def test_cap_counts_every_class_before_any_filter() -> None:
    """The 300 better detections of a category nobody looked for push the hit out."""
    crowding = [([0, 0, 9, 9], 3, 0.9)] * 300
    assert box_ap(single(HIT, *crowding[1:]), federated())["AP"] == pytest.approx(1)
    assert box_ap(single(HIT, *crowding), federated())["AP"] == 0
    assert box_ap(single(*crowding, HIT), federated(), cap=301)["AP"] == pytest.approx(1)


def test_categories_nobody_looked_for_are_ignored() -> None:
    false = ([60, 60, 90, 90], 2, 0.9)
    truth = federated()
    truth["images"].append({**truth["images"][0], "id": 2})
    truth["annotations"].append({"id": 2, "image_id": 2, "category_id": 2, "bbox": [0, 0, 9, 9], "area": 81})
    parts = []
    for image_id, box, category, score in [(1, *false), (2, [0, 0, 9, 9], 2, 0.5)]:
        parts.append(
            Detections.of(
                image_id,
                boxes=np.array([box], float),
                box_index=np.array([0]),
                category_ids=np.array([category]),
                scores=np.array([score]),
            )
        )
    found = Detections.concatenate(parts)
    assert box_ap(found, truth)["APc"] == pytest.approx(1)
    truth["images"][0]["neg_category_ids"] = [2]
    assert box_ap(found, truth)["APc"] == pytest.approx(0.5)


def test_unmatched_of_not_exhaustive_categories_are_ignored() -> None:
    false = ([60, 60, 90, 90], 1, 0.9)
    assert box_ap(single(false, HIT), federated())["AP"] == pytest.approx(0.5)
    assert box_ap(single(false, HIT), federated(not_exhaustive_category_ids=[1]))["AP"] == pytest.approx(1)


def test_detections_without_area_do_not_count() -> None:
    assert box_ap(single(([5, 5, 5, 9], 1, 0.9), HIT), federated())["AP"] == pytest.approx(1)


def test_second_detection_of_an_object_is_false() -> None:
    assert box_ap(single(HIT, HIT, (*HIT[:2], 0.4)), federated())["AP"] == pytest.approx(1)
    truth = federated()
    truth["annotations"].append(
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [60, 60, 20, 20], "area": 400}
    )
    twice = single((*HIT[:2], 0.9), (*HIT[:2], 0.8), ([60, 60, 80, 80], 1, 0.7))
    assert 0.8 < box_ap(twice, truth)["AP"] < 0.9


def test_missing_objects_lower_recall_not_precision() -> None:
    truth = federated()
    truth["annotations"].append(
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [60, 60, 20, 20], "area": 400}
    )
    metrics = box_ap(single(HIT), truth)
    assert metrics["AP"] == pytest.approx(51 / 101)
    assert metrics["AR"] == pytest.approx(0.5)


def test_order_does_not_matter_without_ties() -> None:
    rng = np.random.default_rng(7)
    truth = annotations(rng, Problem())
    found = detections(rng, Problem(), truth)
    parts = []
    for i in rng.permutation(len(found.image_ids)):
        rows = np.arange(len(found))[found.rows(i)]
        rows = rng.permutation(rows)
        parts.append(
            Detections.of(
                found.image_ids[i],
                boxes=found.boxes,
                box_index=found.box_index[rows],
                category_ids=found.category_ids[rows],
                scores=found.scores[rows],
                masks=found.masks,
            )
        )
    assert_same(evaluate(found, truth), evaluate(Detections.concatenate(parts), truth))


def test_subset_and_categories_agree() -> None:
    rng = np.random.default_rng(2)
    truth = annotations(rng, Problem(images=40))
    found = detections(rng, Problem(), truth)
    result = evaluate(found, truth, subsets={"novel": [1, 7], "none": [999]})["bbox"]
    assert (result.per_category[[0, 2]] > 0).all()
    assert result.metrics["AP novel"] == pytest.approx(result.per_category[[0, 2]].mean())
    assert result.metrics["AP none"] == -1
    assert result.to_json()["per_category"]["7"] == result.per_category[2]
    json.dumps(result.to_json())


def test_sample_of_images() -> None:
    """Images outside a sample are no misses."""
    truth = annotations(np.random.default_rng(1), Problem(images=10))
    chosen = [image["id"] for image in truth["images"] if image["id"] % 2]
    part = {**truth, "annotations": [a for a in truth["annotations"] if a["image_id"] in chosen]}
    part["images"] = [image for image in truth["images"] if image["id"] in chosen]
    found = perfect_detections(part)
    assert evaluate(found, truth)["bbox"].metrics["AP"] < 1
    assert evaluate(found, truth, image_ids=map(str, chosen))["bbox"].metrics["AP"] == pytest.approx(1)
    with pytest.raises(InputError, match="1 images are not in the ground truth"):
        evaluate(found, truth, image_ids=[*chosen, 123456])


def test_custom_file_without_area_ids_and_masks(tmp_path: Path) -> None:
    file = tmp_path / "custom.json"
    truth = {
        "images": [{"id": "a", "width": 99, "height": 99}],
        "annotations": [{"image_id": "a", "category_id": 5, "bbox": [1, 2, 30, 40]}],
        "categories": [{"id": 5, "name": "thing"}],
    }
    file.write_text(json.dumps(truth))
    found = single(([1, 2, 31, 42], 5, 0.3), image_id="a")
    for fast in (True, False):
        metrics = box_ap(found, file, fast=fast)
        assert metrics["AP"] == pytest.approx(1)
        assert "APr" not in metrics
    with pytest.raises(InputError, match="no masks"):
        evaluate(found, file)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="detections of image 2"):
        box_ap(single(HIT, image_id=2), federated())
    with pytest.raises(MissingFileError):
        evaluate(single(HIT), tmp_path / "absent.json")
    with pytest.raises(InputError, match="COCO-style"):
        evaluate(single(HIT), {"images": []})
    broken = federated()
    del broken["annotations"][0]["bbox"]
    with pytest.raises(InputError, match="lacks 'bbox'"):
        evaluate(single(HIT), broken)


def test_lvis_import_has_no_side_effects() -> None:
    program = (
        "import logging, sys\n"
        "from regionspot_cache.evaluation.reference import load_lvis_api\n"
        "load_lvis_api()\n"
        "names = {'cv2', 'matplotlib', 'lvis'} & set(sys.modules)\n"
        "import numpy\n"
        "assert not names and not logging.getLogger().handlers and not hasattr(numpy, 'float'), names\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_an_imported_lvis_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    own = type(logging)("lvis")
    monkeypatch.setitem(sys.modules, "lvis", own)
    own.__spec__ = PathFinder.find_spec("lvis")
    load_lvis_api.cache_clear()
    load_lvis_api()
    assert sys.modules["lvis"] is own
