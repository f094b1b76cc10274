import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot_cache.evaluation import proposal_recall
from regionspot_cache.evaluation.metrics import IOU_THRESHOLDS
from regionspot_cache.recognition.proposals import Proposals
from tests.evaluation.synthetic import Problem, annotations, random_boxes

COCO_SAMPLE = Path(__file__).parents[2].parent / "shared" / "real-images" / "instances.json"


def random_proposals(rng: np.random.Generator, truth: dict, per_image: int) -> Proposals:
    """Half anywhere, half near annotations; some images have none, one is unknown."""
    images = [(99_999, np.ones((3, 4)), np.ones(3))]
    for image in truth["images"][2:]:
        boxes = random_boxes(rng, per_image)
        own = [a["bbox"] for a in truth["annotations"] if a["image_id"] == image["id"]]
        if own:
            near = np.array(own)[rng.integers(0, len(own), per_image // 2)]
            boxes[: len(near)] = near + rng.normal(0, 0.1, near.shape) * near[:, [2, 3, 2, 3]]
        boxes[:, 2:] = boxes[:, :2] + np.maximum(boxes[:, 2:], 1)
        images.append((str(image["id"]), boxes, rng.random(per_image)))
    return Proposals.from_images("random", images)


def iou(a: list[float], b: list[float]) -> float:
    """xyxy, xywh."""
    w = min(a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + b[2] * b[3] - both)


def plain_recall(proposals: Proposals, truth: dict, limit: int, low: float, high: float) -> np.ndarray:
    """One pair after the other: the highest overlap of all that are left in an image."""
    hits, wanted = [], 0
    for image in truth["images"]:
        own = [a for a in truth["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        own = [a["bbox"] for a in own if low <= a["area"] <= high]
        boxes = proposals[image["id"]].boxes[:limit].astype(float).tolist()
        wanted += len(own)
        while own and boxes:
            best = max(((iou(b, a), i, j) for i, a in enumerate(own) for j, b in enumerate(boxes)))
            hits.append(best[0])
            del own[best[1]], boxes[best[2]]
    return (np.array(hits)[:, None] >= IOU_THRESHOLDS).sum(axis=0) / wanted


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.sampled_from([4, 30]))
def test_equals_brute_force(seed: int, per_image: int) -> None:
    rng = np.random.default_rng(seed)
    truth = annotations(rng, Problem(images=10, federated=False))
    proposals = random_proposals(rng, truth, per_image)
    found = proposal_recall(proposals, truth, (5, 20))
    for limit in (5, 20):
        for name, low, high in [("", 0, 1e10), ("s", 0, 32**2), ("m", 32**2, 96**2)]:
            if not any(low <= a["area"] <= high and not a["iscrowd"] for a in truth["annotations"]):
                assert found[f"AR{name}@{limit}"] == -1
                continue
            recalls = plain_recall(proposals, truth, limit, low, high)
            assert found[f"AR{name}@{limit}"] == pytest.approx(recalls.mean())
            if not name:
                assert found[f"R50@{limit}"] == pytest.approx(recalls[0])


def one_image(boxes: list[list[float]]) -> dict:
    return {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "annotations": [
            {"image_id": 1, "category_id": 1 + i, "bbox": box, "area": box[2] * box[3]}
            for i, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }


def test_one_proposal_covers_one_object() -> None:
    truth = one_image([[0, 0, 50, 50], [0, 0, 50, 50]])
    proposals = Proposals.from_images("one", [(1, np.array([[0, 0, 50, 50]]), np.ones(1))])
    assert proposal_recall(proposals, truth)["AR@100"] == pytest.approx(0.5)


def test_limit_takes_the_best_scores() -> None:
    truth = one_image([[0, 0, 50, 50]])
    boxes = np.array([[0, 0, 50, 50], [60, 60, 70, 70]])
    proposals = Proposals.from_images("two", [(1, boxes, np.array([0.1, 0.9]))])
    recall = proposal_recall(proposals, truth, (1, 2))
    assert (recall["AR@1"], recall["AR@2"]) == (0, pytest.approx(1))
    assert recall["ARl@2"] == -1
    assert recall["ARm@2"] == pytest.approx(1)


def test_images_without_proposals_are_missed() -> None:
    assert proposal_recall(Proposals.from_images("none", []), one_image([[0, 0, 9, 9]]))["AR@1000"] == 0


@pytest.mark.skipif(not COCO_SAMPLE.exists(), reason="no shared sample")
def test_annotations_cover_themselves() -> None:
    truth = json.loads(COCO_SAMPLE.read_text())
    images = []
    for image in truth["images"]:
        own = [a["bbox"] for a in truth["annotations"] if a["image_id"] == image["id"]]
        boxes = np.array(own, float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        images.append((image["id"], boxes, np.ones(len(boxes))))
    recall = proposal_recall(Proposals.from_images("annotations", images), COCO_SAMPLE)
    assert {round(value, 12) for value in recall.values()} == {1.0}
