"""Two runs side by side: what changed, whether it is more than chance, and what stands in the way."""

import json
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.evaluate.pictures import worst_images
from pipeline.verbs.evaluate import EvalSettings
from regionspot_cache.datasets import load_dataset
from regionspot_cache.errors import UsageError
from regionspot_cache.evaluation.answers import ObjectAnswers
from regionspot_cache.evaluation.significance import mcnemar
from tests.running import Ran, rs_cache

RUN, VAL = Path("rs-cache-data/runs/small"), Path("rs-cache-data/datasets/shapes")
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@pytest.fixture
def other(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another run with the same networks: the trained head, disturbed."""
    monkeypatch.chdir(finished)
    shutil.copytree(RUN, tmp_path / "other")
    weights = load_file(tmp_path / "other" / WEIGHTS)
    rng = np.random.default_rng(0)
    noisy = {name: w + rng.normal(0, 0.3, w.shape).astype(w.dtype) for name, w in weights.items()}
    save_file(noisy, tmp_path / "other" / WEIGHTS)
    return tmp_path / "other"


def both(other: Path, *options: object, code: int = 0) -> Ran:
    checkpoints = ("--checkpoint", RUN, "--checkpoint", other, "--set", "masks=false")
    ran = rs_cache("eval", *checkpoints, "--out", other.parent / "out", "--json", *options)
    assert ran.code == code, ran.err
    return ran


@pytest.fixture
def few_classes(other: Path) -> tuple[object, ...]:
    """Options for the validation images with three classes, so that much is right by chance."""
    content = json.loads((VAL / "val.json").read_text())
    kept = content["categories"][:3]
    content["categories"] = [{"id": one["id"], "name": one["name"]} for one in kept]
    for image in content["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image.pop(key, None)
    for number, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = kept[number % 3]["id"]
    file = other.parent / "few.json"
    file.write_text(json.dumps(content))
    cache = Path("rs-cache-data/caches/shapes-val-small")
    return "--dataset", file, "--images", VAL / "images", "--set", f"cache={cache}", "--set", "resamples=200"


def test_two_runs_on_given_boxes(other: Path, few_classes: tuple[object, ...]) -> None:
    ran = both(other, *few_classes, "--set", "pictures=1")
    out = other.parent / "out"
    methods = [result["protocol"]["method"] for result in ran.json["results"]]
    assert [method.split(" on ")[0] for method in methods] == ["regionspot-small", "regionspot-other"]
    assert methods[1].endswith(str(other))
    boxes = pq.read_table(out / "boxes.parquet").to_pylist()
    names = list(dict.fromkeys(row["method"] for row in boxes))
    right = {name: np.array([row["right"] for row in boxes if row["method"] == name]) for name in names}
    first, second = right.values()
    assert list(right) == ["regionspot-small", "regionspot-other"]
    (found,) = ran.json["comparisons"]
    assert (found["first"], found["second"]) == tuple(right)
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    assert min(gained, lost) > 0
    assert found["objects"] == {
        "both_right": int((first & second).sum()),
        "became_right": gained,
        "became_wrong": lost,
        "both_wrong": int((~first & ~second).sum()),
        "mcnemar_p": mcnemar(lost, gained),
    }
    for result, mine, which in zip(ran.json["results"], (first, second), ("first", "second"), strict=True):
        assert result["metrics"]["accuracy"]["top1"] == pytest.approx(mine.mean())
        assert found["measures"]["top1"][which] == pytest.approx(mine.mean())
        assert found["measures"]["box AP"][which] == result["metrics"]["box"]["AP"]
    assert all(one["low"] <= one["difference"] <= one["high"] for one in found["measures"].values())
    assert json.loads((out / "metrics.json").read_text()) == ran.json
    text = unescape(re.sub("<[^>]+>", " ", (out / "report.html").read_text(encoding="utf-8")))
    for words in (
        "Compared with regionspot-small",
        "Differences",
        "McNemar",
        "Worst images of regionspot-sm",
    ):
        assert words in text
    assert (out / "regionspot-other-bbox.json").is_file()
    again = both(other, *few_classes, "--set", "pictures=0")
    assert again.json["comparisons"] == ran.json["comparisons"]


def test_two_runs_and_a_file_on_proposals(other: Path) -> None:
    options = ("--proposals", "rpn", "--limit", 3, "--set", "top_n=10", "--set", "pictures=0")
    few = ("--set", "resamples=20")
    both(other, *options, *few)
    out = other.parent / "out"
    boxes = pq.read_table(out / "boxes.parquet").to_pylist()
    assert all(0 <= row["objectness"] <= 1 for row in boxes)
    assert all((row["iou"] >= 0.5) == (row["class"] is not None) for row in boxes)
    assert all((row["right"] is None) == (row["class"] is None) for row in boxes)
    assert {row["right"] for row in boxes} >= {None, False}
    file = other.parent / "theirs.json"
    shutil.copy(out / "regionspot-other-bbox.json", file)
    ran = both(other, *options, *few, "--method", "regionspot", "--method", f"results:{file}")
    same, theirs = ran.json["comparisons"]
    assert theirs["objects"] is None
    assert list(theirs["measures"]) == ["box AP"]
    assert same["objects"]["both_wrong"] > 0
    for name in ("difference", "low", "high"):  # what was written scores as it did
        assert theirs["measures"]["box AP"][name] == pytest.approx(same["measures"]["box AP"][name], abs=1e-6)
    without = both(other, *options, "--set", "resamples=0").json["comparisons"][0]
    assert without["measures"]["box AP"]["low"] is None
    table = rs_cache(
        *("eval", "--checkpoint", RUN, "--checkpoint", other, "--out", out, "--limit", 2),
        *("--set", "masks=false", "--set", "pictures=0"),
    )
    assert re.search(
        r"regionspot-other against regionspot-small: box AP [+-]\S+ \(.* to .*\), top1", table.out
    )
    assert re.search(r"\d+ objects became right and \d+ wrong \(p = ", table.out)


def test_runs_that_cannot_be_compared(other: Path) -> None:
    config = json.loads((other / CONFIG).read_text())
    config["text"]["templates"] = "clip80"
    (other / CONFIG).write_text(json.dumps(config))
    ran = both(other, "--limit", 1, code=1)
    assert "templates='clip80'" in ran.error["error"]
    assert "--set prompts.templates" in ran.error["next"]
    both(other, "--limit", 1, "--set", "prompts.templates=single", "--set", "details=false")
    config["networks"]["clip"]["weights_sha256"] = "0" * 64
    (other / CONFIG).write_text(json.dumps(config))
    ran = both(other, "--limit", 1, code=4)
    assert str(other) in ran.error["error"]
    assert "weights_sha256" in ran.error["error"]


def test_rows_are_named_by_what_tells_the_folders_apart() -> None:
    methods = ("regionspot", "clip-box", "results:x/glip.json", "official")
    settings = EvalSettings(checkpoints=(Path("a/run"), Path("b/run")), methods=methods)
    names = ["regionspot-a-run", "regionspot-b-run", "clip-box", "glip", "official-a-run", "official-b-run"]
    assert list(settings.row_names) == names
    assert [row.checkpoint for row in settings.own_rows[:3]] == [Path("a/run"), Path("b/run"), None]
    assert settings.compares
    alone = EvalSettings(checkpoints=(Path("a/run"),))
    assert (alone.row_names, alone.compares) == (("regionspot",), False)
    with pytest.raises(UsageError, match="one folder twice"):
        EvalSettings(checkpoints=(Path("a"), Path("b/../a")))
    with pytest.raises(UsageError, match="without a head"):
        EvalSettings(checkpoints=(), methods=("clip-box",))


def test_the_worst_images_have_the_most_probability_on_wrong_names(finished: Path) -> None:
    dataset = load_dataset("shapes", split="val", data_root=finished / "rs-cache-data/datasets")
    objects = ObjectAnswers(len(dataset.labels))
    objects.said[:] = dataset.labels
    objects.probability[:] = 1
    wrong = {5: 0.4, 2: 0.9, 3: 0.0}
    for index, probability in wrong.items():
        row = dataset.offsets[index]
        objects.said[row] = (dataset.labels[row] + 1) % len(dataset.class_names) if probability else -1
        objects.probability[row] = probability
    worst = worst_images(dataset, objects)
    assert worst.order[:2].tolist() == [2, 5]
    assert sorted(worst.order) == np.flatnonzero(np.diff(dataset.offsets)).tolist()
    assert worst.wrong.nonzero()[0].tolist() == [2, 5]
    np.testing.assert_allclose(worst.sums[[2, 5, 3]], [0.9, 0.4, 0], rtol=1e-6)
