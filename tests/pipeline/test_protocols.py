"""`rs-cache eval` by the protocols of two papers, with the methods that pool maps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from tests.conftest import BACKBONE
from tests.running import Ran, rs_cache

SHORT = ("--limit", 3, "--set", "masks=false", "--set", "pictures=0")
FAR = 1_000_000  # more pairs than three images have
REGIONCLIP = 'teacher: {network: regionclip, model: packaged, weights: "random:4"}'


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return tmp_path


def evaluate(out: Path, *options: object, code: int = 0) -> Ran:
    ran = rs_cache(
        *("eval", "--checkpoint", "rs-cache-data/runs/small", "--out", out, "--json", *SHORT, *options)
    )
    assert ran.code == code, ran.err
    return ran


def detections(out: Path) -> dict[int, list[tuple[int, float, tuple[float, ...]]]]:
    """Category, score and box of every detection by image, best first."""
    found: dict[int, list[Any]] = {}
    for d in json.loads((out / "regionspot-bbox.json").read_text()):
        found.setdefault(d["image_id"], []).append((d["category_id"], d["score"], tuple(d["bbox"])))
    return {image: sorted(rows, key=lambda row: -row[1]) for image, rows in found.items()}


def suppressed(rows: list[tuple[int, float, tuple[float, ...]]], threshold: float) -> list[Any]:
    """Threshold, hard NMS of 0.5 in each class, and the best 300, by torchvision."""
    rows = [row for row in rows if row[1] > threshold]
    labels, scores = torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows])
    boxes = torch.tensor([row[2] for row in rows]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return [rows[i] for i in batched_nms(boxes, scores, labels, 0.5)[:300]]


@pytest.mark.parametrize(("proposals", "threshold"), [("gt", 1e-4), ("rpn", 0.02)])
def test_the_protocol_of_regionclip(proposals: str, threshold: float, place: Path) -> None:
    options = ("--proposals", proposals, "--set", "top_n=15")
    rule = ("--set", "score_rule=geometric")
    whole = evaluate(place / "all", *options, *rule, "--set", f"cap={FAR}")
    protocol = whole.json["results"][0]["protocol"]
    assert protocol["detections"] == "shared (every box with every class)"
    ran = evaluate(place / "own", *options, "--set", "protocol=regionclip")
    protocol = json.loads((place / "own/metrics.json").read_text())["results"][0]["protocol"]
    expected_text = f"regionclip (score > {threshold:g}, NMS 0.5 in each class, best 300)"
    assert protocol["detections"] == expected_text
    assert protocol["score_rule"] == ("probability" if proposals == "gt" else "geometric")
    every, found = detections(place / "all"), detections(place / "own")
    expected = {image: suppressed(rows, threshold) for image, rows in every.items()}
    assert {image: len(rows) for image, rows in expected.items() if rows} == {
        image: len(rows) for image, rows in found.items()
    }
    assert sum(map(len, found.values())) < sum(map(len, every.values()))
    for image, rows in found.items():
        np.testing.assert_allclose([r[1] for r in rows], [r[1] for r in expected[image]], rtol=1e-5)
    assert ran.json["results"][0]["metrics"]["box"]["AP"] >= 0


def test_the_raw_logit_rule_leaves_out_boxes_of_negative_logits(place: Path) -> None:
    truth = json.loads(Path("rs-cache-data/datasets/shapes/val.json").read_text())
    boxes = [
        {"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.9 if i % 3 else 0.2}
        for i, a in enumerate(truth["annotations"])
    ]
    file = place / "boxes.json"
    file.write_text(json.dumps(boxes))
    options = ("--proposals", file, "--set", f"cap={FAR}")
    evaluate(place / "all", *options)
    ran = evaluate(place / "own", *options, "--set", "score_rule=rc-compat", "--set", "pictures=2")
    assert ran.json["results"][0]["protocol"]["score_rule"] == "rc-compat"
    every, found = detections(place / "all"), detections(place / "own")
    likely = {tuple(np.round(b["bbox"], 2)) for b in boxes if b["score"] == 0.9}
    seen = {tuple(np.round(row[2], 2)) for rows in found.values() for row in rows}
    assert seen < {tuple(np.round(row[2], 2)) for rows in every.values() for row in rows}
    assert seen <= likely
    scale = np.log(9) ** 0.5  # the root of the logit of 0.9
    for image, rows in found.items():
        probabilities = [row[1] / 0.9 for row in every[image] if tuple(np.round(row[2], 2)) in seen]
        expected = scale * np.sqrt(probabilities)
        np.testing.assert_allclose([row[1] for row in rows], expected, rtol=1e-3)


def test_people_read_the_protocol_beside_the_numbers(place: Path) -> None:
    ran = rs_cache(
        *("eval", "--checkpoint", "rs-cache-data/runs/small", "--out", place, *SHORT),
        *("--set", "protocol=regionclip", "--set", "details=false"),
    )
    assert "detections: regionclip (score > 0.0001, NMS 0.5 in each class, best 300)" in ran.out


def test_fixed_ap_has_no_choice_in_an_image(place: Path) -> None:
    ran = evaluate(place, "--ap", "fixed", "--set", "protocol=regionclip", code=2)
    assert "protocol: regionclip with fixed AP" in ran.err


def test_methods_that_pool_maps(place: Path) -> None:
    """The value path is switched on; the backbone's own RegionCLIP is taken."""
    file = place / "teacher.yaml"
    file.write_text(BACKBONE.replace("proposer:", f"  {REGIONCLIP}\nproposer:").replace("small", "teacher"))
    methods = ("clip-roi", "clip-roi-mask", "regionclip")
    ran = evaluate(
        *(place, "--backbone", file, "--set", "protocol=regionclip", "--set", "prompts.templates=single"),
        *(option for name in methods for option in ("--method", name)),
    )
    results = ran.json["results"]
    assert [result["protocol"]["method"].split()[0] for result in results] == list(methods)
    for result in results:
        assert 0 <= result["metrics"]["accuracy"]["top1"] <= 1
    texts = [(place / f"{name}-bbox.json").read_text() for name in methods]
    assert len(set(texts)) == 3
