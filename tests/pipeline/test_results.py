"""`rs-cache eval --method results:FILE`: detections of other systems in the same table."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regionspot_cache.evaluation import evaluate, write_results
from regionspot_cache.files import file_sha256
from tests.evaluation.synthetic import Problem, annotations, detections
from tests.running import Ran, rs_cache


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with annotations and no image, network or checkpoint."""
    monkeypatch.chdir(tmp_path)
    truth = annotations(np.random.default_rng(0), Problem())
    for number, image in enumerate(truth["images"]):
        image["coco_url"] = f"http://x/{'val' if number % 3 else 'train'}2017/{number}.jpg"
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return tmp_path


def truth_of(place: Path) -> dict[str, Any]:
    return json.loads((place / "truth.json").read_text())


def other_system(place: Path, name: str, seed: int, kind: str = "bbox") -> Path:
    problem = Problem(classes=6)  # no unknown category
    found = detections(np.random.default_rng(seed), problem, truth_of(place))
    write_results(place / f"{name}.json", found, kind)
    return place / f"{name}.json"


def score(*options: object, dataset: object = "truth.json", code: int = 0) -> Ran:
    ran = rs_cache("eval", "--dataset", dataset, "--out", "out", "--json", *options)
    assert ran.code == code, ran.err
    return ran


def test_two_systems_in_one_table_without_images_or_networks(place: Path) -> None:
    first, second = other_system(place, "glip", 1), other_system(place, "owl", 2, "segm")
    results = score("--method", f"results:{first}", "--method", f"results:{second}").json["results"]
    boxes, masks = (result["metrics"] for result in results)
    assert set(boxes) == {"box"}
    assert set(masks) == {"box", "mask"}
    truth = truth_of(place)
    found = detections(np.random.default_rng(1), Problem(classes=6), truth)
    assert boxes["box"] == pytest.approx(evaluate(found, truth, iou_types=["bbox"])["bbox"].metrics)
    protocol = results[0]["protocol"]
    assert protocol["method"] == f"glip, COCO results glip.json, sha256 {file_sha256(first)[:12]}"
    assert (protocol["proposals"], protocol["score_rule"]) == ("own", "as given")
    assert (protocol["ap_type"], protocol["cap"]) == ("standard", 300)
    ran = score("--method", f"results:{first}", "--set", "masks=false")
    assert "480 detections (boxes) of 12 images, COCO results" in ran.err


def test_no_network_is_loaded(place: Path) -> None:
    other_system(place, "glip", 1)
    code = (
        "import sys; from pipeline.cli import run; "
        "code = run(['eval', '--dataset', 'truth.json', '--method', 'results:glip.json', '--out', 'out']); "
        "heavy = {'segment_anything', 'open_clip', 'pipeline.evaluate.own_methods'}; "
        "print(heavy & set(sys.modules)); sys.exit(code)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("set()\n")


def test_fixed_ap_is_labelled_and_says_what_is_scarce(place: Path) -> None:
    other_system(place, "glip", 1)
    ran = score("--method", "results:glip.json", "--ap", "fixed")
    protocol = ran.json["results"][0]["protocol"]
    assert (protocol["ap_type"], protocol["cap"]) == ("fixed (10,000 a class)", None)
    assert "glip: 7 of 7 classes have fewer than 10,000 detections" in ran.err
    table = rs_cache(
        *("eval", "--dataset", "truth.json", "--out", "out", "--method", "results:glip.json", "--ap", "fixed")
    )
    assert "LVIS fixed (10,000 a class) AP, no cap an image" in table.out


def test_what_is_left_out_is_counted(place: Path) -> None:
    other_system(place, "glip", 1)
    entries = json.loads((place / "glip.json").read_text())
    ran = score("--method", "results:glip.json", "--limit", 4, "--set", "cap=5")
    left = next(line for line in ran.err.splitlines() if "left out" in line)
    counts = re.search(r"(\d+) behind the best 5 of an image, (\d+) of images that are not evaluated", left)
    assert counts is not None
    assert sum(map(int, counts.groups())) + 4 * 5 == len(entries)
    protocol = ran.json["results"][0]["protocol"]
    assert "4 images drawn by seed 0" in protocol["split"]


def test_minival_takes_its_part_of_the_results_of_val(place: Path) -> None:
    other_system(place, "glip", 1)
    truth = truth_of(place)
    (place / "data/lvis").mkdir(parents=True)
    (place / "truth.json").rename(place / "data/lvis/lvis_v1_val.json")
    here = ("--set", "data=data", "--method", "results:glip.json")
    derived = score(*here, dataset="lvis:minival").json["results"][0]
    inside = [image for image in truth["images"] if "val2017" in image["coco_url"]]
    ids = {image["id"] for image in inside}
    part = [a for a in truth["annotations"] if a["image_id"] in ids]
    own = {**truth, "images": inside, "annotations": part}
    (place / "data/lvis/lvis_v1_minival.json").write_text(json.dumps(own))
    from_its_file = score(*here, dataset="lvis:minival").json["results"][0]
    assert derived["protocol"]["split"] == "minival"
    assert derived == from_its_file
    assert derived["metrics"] != score(*here, dataset="lvis:val").json["results"][0]["metrics"]


def test_beside_our_own_methods(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this package wrote scores the same when it is read; rows stay in the order asked for."""
    monkeypatch.chdir(finished)
    options = (
        *("eval", "--checkpoint", "rs-cache-data/runs/small", "--json", "--limit", 3),
        *("--set", "pictures=0"),
    )
    first = rs_cache(*options, "--out", tmp_path, "--ap", "standard")
    assert first.code == 0, first.err
    (tmp_path / "regionspot-segm.json").rename(tmp_path / "again.json")
    again = rs_cache(
        *(*options, "--out", tmp_path / "b", "--method", f"results:{tmp_path / 'again.json'}"),
        *("--method", "regionspot"),
    )
    assert again.code == 0, again.err
    read, own = again.json["results"]
    assert [r["protocol"]["method"].split()[0] for r in (read, own)] == ["again,", "regionspot"]
    assert read["metrics"]["mask"] == pytest.approx(own["metrics"]["mask"], abs=1e-6)
    assert own["metrics"] == first.json["results"][0]["metrics"]


def test_fixed_ap_of_our_own_method_keeps_every_pair(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    options = ("eval", "--checkpoint", "rs-cache-data/runs/small", "--json", "--limit", 2, "--out", tmp_path)
    ran = rs_cache(*options, "--ap", "fixed", "--set", "masks=false", "--set", "cap=3")
    assert ran.code == 0, ran.err
    assert ran.json["results"][0]["protocol"]["ap_type"] == "fixed (10,000 a class)"
    boxes = ran.json["results"][0]["metrics"]["accuracy"]["boxes"]
    classes = json.loads(Path("rs-cache-data/datasets/shapes/val.json").read_text())["categories"]
    assert len(json.loads((tmp_path / "regionspot-bbox.json").read_text())) == boxes * len(classes)


@pytest.mark.parametrize(
    ("options", "code", "found"),
    [
        (("--method", "results:absent.json"), 1, "absent.json"),
        (("--method", "results:"), 2, "results:"),
        (("--method", "results:a/x.json", "--method", "results:b/x.json"), 2, "x, x"),
        (("--method", "results:truth.json"), 1, "truth.json"),
        (("--method", "results:glip.json", "--ap", "best"), 2, "ap"),
        (("--method", "results:other.json"), 1, "1 detections of 1 images that the annotation file lacks"),
    ],
)
def test_what_cannot_be_scored(options: tuple[str, ...], code: int, found: str, place: Path) -> None:
    other_system(place, "glip", 1)
    entry = {"image_id": 10**6, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
    (place / "other.json").write_text(json.dumps([entry]))
    ran = rs_cache("eval", "--dataset", "truth.json", "--out", "out", *options)
    assert ran.code == code, ran.err
    assert found in ran.error["error"]
