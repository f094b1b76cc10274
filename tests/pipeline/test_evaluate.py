"""`rs-cache eval` on ground truth, proposals of a network and of a file, by every method."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regionspot_cache.json_stream import JsonFile
from tests.running import Ran, rs_cache

RUN = Path("rs-cache-data/runs/small")
VAL = Path("rs-cache-data/datasets/shapes/val.json")
METHODS = ("regionspot", "clip-box", "clip-mask")
EVERY = [option for name in METHODS for option in ("--method", name)]


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished workplace; what an evaluation writes goes to a folder of the test."""
    monkeypatch.chdir(finished)
    return tmp_path


def evaluate(out: Path, *options: object, code: int = 0) -> Ran:
    ran = rs_cache("eval", "--checkpoint", RUN, "--out", out, "--json", *options)
    assert ran.code == code, ran.err
    return ran


def test_ground_truth_boxes_by_every_method(place: Path) -> None:
    ran = evaluate(place, *EVERY)
    assert "From the cache, of 8 images: clip/map of 8, sam/transformer of 8." in ran.err
    assert "warning" not in ran.err
    results = ran.json["results"]
    assert [r["protocol"]["method"].split()[0] for r in results] == list(METHODS)
    for result in results:
        assert result["protocol"]["metric"] == "LVIS"
        assert result["protocol"]["templates"] == "single"
        for kind in ("box", "mask"):
            assert {"AP", "AP50", "APr", "APc", "APf"} <= set(result["metrics"][kind])
        assert 0 <= result["metrics"]["accuracy"]["top1"] <= 1
    assert json.loads((place / "metrics.json").read_text()) == ran.json
    truth = {image["id"] for image in json.loads(VAL.read_text())["images"]}
    for method in METHODS:
        boxes = json.loads((place / f"{method}-bbox.json").read_text())
        assert {d["image_id"] for d in boxes} <= truth
        assert {"image_id", "category_id", "bbox", "score"} <= set(boxes[0])
        masks = json.loads((place / f"{method}-segm.json").read_text())
        assert len(masks) == len(boxes)
        assert set(masks[0]["segmentation"]) == {"size", "counts"}


def test_numbers_alone_without_details(place: Path) -> None:
    ran = evaluate(place, "--limit", 3, "--set", "details=false")
    assert [path.name for path in place.iterdir()] == ["metrics.json"]
    assert ran.json["results"][0]["metrics"]["box"]


def test_the_reference_evaluator_says_the_same(place: Path) -> None:
    runs = [
        evaluate(place, "--limit", 3, "--set", "masks=false", "--set", f"reference={reference}")
        for reference in ("false", "true")
    ]
    fast, slow = (run.json["results"][0]["metrics"]["box"] for run in runs)
    for name in ("AP", "AP50", "AP75", "APr", "APc", "APf"):
        assert slow[name] == pytest.approx(fast[name], abs=1e-4)


def test_features_from_the_cache_and_on_the_fly_agree(place: Path, tmp_path: Path) -> None:
    cached = evaluate(place / "a", "--set", "masks=false", "--limit", 4)
    assert "From the cache, of 4 images: clip/map of 4, sam/transformer of 4." in cached.err
    shutil.copytree(VAL.parent, tmp_path / "copy/shapes")  # the same images, no cache beside them
    live = rs_cache(
        *("eval", "--checkpoint", Path(RUN).absolute(), "--json", "--out", "b", "--limit", 4),
        *("--set", "masks=false", "--set", f"data={tmp_path / 'copy'}"),
        cwd=tmp_path,
    )
    assert live.code == 0, live.err
    assert "From the cache, of 4 images: nothing." in live.err
    a, b = (run.json["results"][0]["metrics"]["box"] for run in (cached, live))
    assert a["AP"] == pytest.approx(b["AP"], abs=0.02)


def test_proposals_of_the_network(place: Path) -> None:
    ran = evaluate(place, "--proposals", "rpn", "--limit", 3, "--set", "top_n=10", *EVERY)
    assert "From the cache, of 3 images: clip/map of 3." in ran.err
    for result in ran.json["results"]:
        assert "RPN, top 10 (proposals small RPN on SAM embeddings, " in result["protocol"]["proposals"]
        assert {"AR@100", "AR@300", "AR@1000"} <= set(result["metrics"]["recall"])
        assert "accuracy" not in result["metrics"]
    again = evaluate(
        place / "again", "--proposals", place / "proposals.npz", "--limit", 3, "--set", "top_n=10"
    )
    first, second = ran.json["results"][0]["metrics"], again.json["results"][0]["metrics"]
    assert first["recall"] == second["recall"]
    assert first["box"] == second["box"]


def test_boxes_of_a_detector(place: Path) -> None:
    truth = json.loads(VAL.read_text())
    rng = np.random.default_rng(0)
    detections = [
        {"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": float(rng.uniform())}
        for a in truth["annotations"]
    ]
    file = place / "detections.json"
    file.write_text(json.dumps(detections))
    ran = evaluate(place, "--proposals", file)
    recall = ran.json["results"][0]["metrics"]["recall"]
    assert recall["R50@100"] == pytest.approx(1)
    assert "detections.json" in ran.json["results"][0]["protocol"]["proposals"]


def test_a_table_for_people(place: Path) -> None:
    ran = rs_cache("eval", "--checkpoint", RUN, "--out", place, "--limit", 2, "--set", "masks=false")
    assert ran.code == 0
    for word in ("AP", "APr", "LVIS", "regionspot", "shapes", "2 images drawn by seed 0"):
        assert word in ran.out
    assert "recognising: 2/2" in ran.err


def test_images_that_cannot_be_read_are_counted(place: Path, workplace: Path, finished: Path) -> None:
    (workplace / VAL.parent / "images/val/000003.jpg").write_bytes(b"no image")
    ran = rs_cache(
        *("eval", "--checkpoint", finished / RUN, "--json", "--set", "masks=false"),
        cwd=workplace,
    )
    assert ran.code == 0, ran.err
    assert "images without detections: 1 undecodable" in ran.err


@pytest.fixture
def copied_run(place: Path) -> Path:
    shutil.copytree(RUN, place / "run")
    return place / "run"


def test_a_checkpoint_of_another_width_or_backbone_is_refused(copied_run: Path) -> None:
    text = (copied_run / "config.json").read_text()
    for key in ("token_dim", "map_dim", "text_dim", "depth"):
        config = json.loads(text)
        config["head"][key] += 8
        (copied_run / "config.json").write_text(json.dumps(config))
        ran = rs_cache("eval", "--checkpoint", copied_run, "--limit", 1)
        assert ran.code in (1, 4), ran.err
        assert str(copied_run) in ran.error["error"]
        assert ran.error["expected"]
    for broken in ("{}", "[]", "{"):
        (copied_run / "config.json").write_text(broken)
        ran = rs_cache("eval", "--checkpoint", copied_run, "--limit", 1)
        assert ran.code == 1
        assert "config.json" in ran.error["error"]
    (copied_run / "config.json").write_text(text)
    ran = rs_cache("eval", "--checkpoint", copied_run, "--limit", 1, "--set", "backbone=other.yaml")
    assert ran.code == 4
    assert "clip.weights_sha256" in ran.error["error"]


@pytest.mark.parametrize(
    ("options", "code", "found"),
    [
        (("--checkpoint", "nowhere"), 1, "nowhere"),
        (("--checkpoint", RUN), 2, "--checkpoint names one folder twice"),
        (("--checkpoint", "x", "--method", "clip-box"), 2, "2 checkpoints for methods without a head"),
        (("--proposals", "none.json"), 1, "none.json"),
        (("--proposals", "small.yaml"), 1, "small.yaml"),
        (("--dataset", "lvis"), 1, "lvis (val)"),
        (("--set", "cache=nowhere"), 1, "nowhere"),
        (("--set", "score_rule=sum"), 2, "score_rule"),
    ],
)
def test_what_cannot_be_evaluated(options: tuple[str, ...], code: int, found: str, place: Path) -> None:
    ran = rs_cache("eval", "--checkpoint", RUN, "--out", place, *options)
    assert ran.code == code, ran.err
    assert found in ran.error["error"]
    assert ran.error.get("expected") or ran.error.get("next")


def test_every_evaluation_has_a_folder_of_its_own(workplace: Path, finished: Path) -> None:
    options = ("eval", "--checkpoint", finished / RUN, "--limit", 2, "--set", "masks=false")
    options += ("--set", "details=false")
    for _ in range(2):
        ran = rs_cache(*options)
        assert ran.code == 0, ran.err
    assert "metrics.json is in rs-cache-data/evaluations/0002-shapes-val-gt" in ran.err
    assert rs_cache(*options, "--proposals", "gone.json").code == 1
    folders = sorted(path.name for path in Path("rs-cache-data/evaluations").iterdir())
    assert folders == ["0001-shapes-val-gt", "0002-shapes-val-gt"]
    assert rs_cache(*options, "--out", "my/own").code == 0
    assert Path("my/own/metrics.json").is_file()


def test_a_dataset_without_validation_images_is_evaluated_on_its_only_split(place: Path) -> None:
    ran = evaluate(place, "--dataset", "shapes-s", "--limit", 2, "--set", "masks=false")
    protocol = ran.json["results"][0]["protocol"]
    assert (protocol["dataset"], protocol["split"]) == ("shapes-s", "train, 2 images drawn by seed 0")


def test_normalised_proposals_and_logits_by_a_setting(place: Path) -> None:
    truth = json.loads(VAL.read_text())
    sizes = {image["id"]: [image["width"], image["height"]] * 2 for image in truth["images"]}
    boxes = [
        {
            "image_id": a["image_id"],
            "bbox": [v / s for v, s in zip(a["bbox"], sizes[a["image_id"]], strict=True)],
            "score": 2.5,
        }
        for a in truth["annotations"]
    ]
    file = place / "boxes.json"
    file.write_text(json.dumps(boxes))
    ran = evaluate(place, "--proposals", file, code=1)
    assert "lie between 0 and 1" in ran.error["error"]
    normalised = ("--set", "proposal_boxes=normalised")
    ran = evaluate(place, "--proposals", file, *normalised, code=1)
    assert "outside [0, 1]" in ran.error["error"]
    ran = evaluate(place, "--proposals", file, *normalised, "--set", "proposal_scores=logits")
    result = ran.json["results"][0]
    assert result["metrics"]["recall"]["R50@100"] == pytest.approx(1)
    assert result["protocol"]["recall"] == "objects of images without proposals count as missed"
    assert "normalised" in result["protocol"]["proposals"]


def test_the_annotation_file_is_read_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = JsonFile.batches

    def counted(self: JsonFile) -> Iterator[tuple[str, list[Any]]]:
        opened.append(self.path.name)
        return original(self)

    monkeypatch.setattr(JsonFile, "batches", counted)
    evaluate(place, "--limit", 2, "--set", "masks=false")
    assert opened.count("val.json") == 1


def test_a_named_cache_of_other_images_is_said_to_be_of_no_use(place: Path) -> None:
    cache = "rs-cache-data/caches/shapes-train-small"
    ran = evaluate(place, "--limit", 2, "--set", "masks=false", "--set", f"cache={cache}")
    assert f"warning: {cache} has no image of shapes" in ran.err
    assert "From the cache, of 2 images: nothing." in ran.err


def test_a_part_of_other_networks_is_named_and_the_other_is_used(workplace: Path, finished: Path) -> None:
    ran = rs_cache("extract", "--dataset", "shapes:val", "--backbone", "other.yaml", "--cache", "cache")
    assert ran.code == 0, ran.err
    options = ("eval", "--checkpoint", finished / RUN, "--limit", 3, "--set", "masks=false", "--json")
    ran = rs_cache(*options, "--set", "cache=cache")
    assert ran.code == 0, ran.err
    assert "warning: clip is computed on the fly: part clip of " in ran.err
    assert "weights_sha256" in ran.err
    assert "From the cache, of 3 images: sam/transformer of 3." in ran.err
    live = rs_cache(*options)
    assert "From the cache, of 3 images: nothing." in live.err
    scores = [found.json["results"][0]["metrics"]["box"]["AP"] for found in (ran, live)]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_a_cache_that_is_not_finished_is_said_not_to_be_used(workplace: Path, finished: Path) -> None:
    cache = "rs-cache-data/caches/shapes-val-small"
    shutil.copytree(finished / cache, cache)
    (workplace / cache / "manifest.json").unlink()
    options = ("eval", "--checkpoint", finished / RUN, "--limit", 2, "--set", "masks=false")
    ran = rs_cache(*options)
    assert ran.code == 0, ran.err
    assert f"warning: {cache} is not used" in ran.err
    assert rs_cache(*options, "--set", f"cache={cache}").code == 3


def test_other_labels_and_ids_do_not_matter_to_a_cache(place: Path) -> None:
    """Features are those of the images and boxes, whatever the annotation file calls them."""
    content = json.loads(VAL.read_text())
    for image in content["images"]:
        image["id"] += 1000
    for annotation in content["annotations"]:
        annotation["image_id"] += 1000
    for category in content["categories"]:
        category["name"] = f"my {category['name']}"
    content["annotations"][0]["bbox"] = [3.25, 4.5, 30.75, 40.5]  # never extracted
    file = place / "mine.json"
    file.write_text(json.dumps(content))
    ran = evaluate(
        *(place, "--dataset", file, "--images", VAL.parent / "images", "--set", "masks=false"),
        *("--set", "cache=rs-cache-data/caches/shapes-val-small"),
    )
    assert "From the cache, of 8 images: clip/map of 8, sam/transformer of 7." in ran.err
