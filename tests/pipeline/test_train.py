"""`rs-cache train`."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import fill_workplace
from tests.running import rs_cache

CACHES = Path("rs-cache-data/caches")
RUN = Path("rs-cache-data/runs/small")


@pytest.fixture
def extracted(workplace: Path, finished: Path) -> Path:
    shutil.copytree(finished / CACHES, workplace / CACHES)
    return workplace


def test_a_run_leaves_a_model_that_says_what_it_needs(finished: Path) -> None:
    folder = finished / RUN
    config = json.loads((folder / "config.json").read_text())
    assert set(config["networks"]) == {"sam", "clip"}
    assert config["inputs"] == {"query": "sam/transformer", "memory": ["clip/map"]}
    assert config["text"]["templates"] == "single"
    assert (folder / "model.safetensors").is_file()
    assert "random:2" in (folder / "backbone.yaml").read_text()
    names = (folder / "classes.txt").read_text().splitlines()
    assert len(names) == len(set(names)) > 20


def test_progress_on_stderr_result_on_stdout_and_a_finished_run_stays(extracted: Path) -> None:
    ran = rs_cache("train", "--config", "train.yaml", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["steps"] == 6
    assert ran.json["left_out"] == {"shapes-train-small": {}}
    assert "steps/s" in ran.err or "s/step" in ran.err
    before = {path: path.read_bytes() for path in RUN.rglob("*.safetensors")}
    again = rs_cache("train", "--config", "train.yaml")
    assert again.code == 0, again.err
    assert again.out == f"The head in {RUN} was trained already (6 steps).\n"
    assert {path: path.read_bytes() for path in RUN.rglob("*.safetensors")} == before


def test_a_run_continues_where_it_stopped_with_the_same_result(
    extracted: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipeline.train

    real = pipeline.train._show

    def stops_at_four(ticker: object, step) -> None:
        real(ticker, step)
        if step.step == 4:
            raise KeyboardInterrupt

    every = ("--set", "training.log_every=1", "--set", "training.checkpoint_seconds=0")
    monkeypatch.setattr("pipeline.train._show", stops_at_four)
    ran = rs_cache("train", "--config", "train.yaml", *every)
    assert ran.code == 130
    monkeypatch.setattr("pipeline.train._show", real)
    ran = rs_cache("train", "--config", "train.yaml", *every, "--json")
    assert ran.code == 0, ran.err
    assert 3 <= ran.json["resumed_from"] < 6
    model = RUN / "model.safetensors"
    assert model.read_bytes() == (finished / model).read_bytes()


@pytest.mark.parametrize(
    ("options", "code", "found"),
    [
        (("--cache", "nowhere"), 1, "nowhere"),
        (("--set", "backbone=other.yaml"), 4, "weights_sha256"),
        (("--set", "training.batch_size=0"), 2, "batch_size"),
        (("--set", "training.head.num_heds=4"), 2, "training.head.num_heds"),
        (("--set", "prompts.templates=none"), 2, "none"),
        (("--set", "head.query=sam/prompt"), 1, "sam/prompt"),
        (("--set", "head.query=dino/token"), 2, "dino/token"),
        (("--set", "head.memory=sam/transformer"), 1, "sam/transformer"),
        (("--set", "datasets.other=shapes"), 2, "datasets names 'other'"),
        (("--set", "datasets.shapes-train-small=gone.json"), 1, "gone.json"),
        (("--set", "datasets.shapes-train-small=shapes:val"), 1, "has no box of shapes"),
        (("--cache", f"{CACHES}/shapes-train-small", "--cache", f"{CACHES}/shapes-train-small"), 2, "caches"),
        (("--config", "absent.yaml"), 2, "--config is given 2 times"),
        (("--out", "small.yaml/run"), 1, "small.yaml"),
    ],
)
def test_what_cannot_be_trained(options: tuple[str, ...], code: int, found: str, extracted: Path) -> None:
    ran = rs_cache("train", "--config", "train.yaml", *options)
    assert ran.code == code, ran.err
    assert found in ran.error["error"]
    assert ran.error.get("expected") or ran.error.get("next")


def test_a_cache_that_is_not_finished_is_refused(extracted: Path) -> None:
    (CACHES / "shapes-train-small/manifest.json").unlink()
    ran = rs_cache("train", "--config", "train.yaml")
    assert ran.code == 3
    assert "rs-cache extract" in ran.error["next"]


def test_other_settings_in_the_same_folder_are_refused(extracted: Path) -> None:
    assert rs_cache("train", "--config", "train.yaml").code == 0
    ran = rs_cache("train", "--config", "train.yaml", "--set", "training.seed=1")
    assert ran.code == 4, ran.err
    assert "seed" in ran.error["error"]


def annotations(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_relabelled_annotations_are_used_without_extraction(extracted: Path) -> None:
    """Another name for every class, one label changed and a box that was never extracted."""
    file = extracted / "rs-cache-data/datasets/shapes/train.json"
    content = annotations(file)
    for category in content["categories"]:
        category["name"] = f"my {category['name']}"
    classes = [category["id"] for category in content["categories"]]
    first = content["annotations"][0]
    first["category_id"] = next(c for c in classes if c != first["category_id"])
    content["annotations"].append({**first, "id": 10**6, "bbox": [1.5, 2.5, 20.25, 30.5], "area": 617})
    relabelled = extracted / "mine.json"
    relabelled.write_text(json.dumps(content), encoding="utf-8")
    before = {path: path.stat().st_mtime_ns for path in CACHES.rglob("*")}
    named = ("--set", f"datasets.shapes-train-small={relabelled}", "--set", "out=mine")
    ran = rs_cache("train", "--config", "train.yaml", *named, "--json")
    assert ran.code == 0, ran.err
    assert f"shapes-train-small: labels of {relabelled}" in ran.err
    assert "warning: shapes-train-small: left out 1 box not in the cache" in ran.err
    assert ran.json["left_out"] == {"shapes-train-small": {"box not in the cache": 1}}
    names = Path("mine/classes.txt").read_text().splitlines()
    assert names
    assert all(name.startswith("my ") for name in names)
    assert {path: path.stat().st_mtime_ns for path in CACHES.rglob("*")} == before


def test_labels_are_those_of_the_annotation_file_as_it_is_now(workplace: Path) -> None:
    small = ("--backbone", "small.yaml", "--set", "partition_size=4")
    ran = rs_cache("extract", *small)
    assert ran.code == 0, ran.err
    file = workplace / "rs-cache-data/datasets/shapes/train.json"
    content = annotations(file)
    gone = content["images"].pop()
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != gone["id"]]
    content["images"].append({**gone, "file_name": "new.jpg", "id": 10**6})
    for category in content["categories"]:
        category["name"] = f"my {category['name']}"
    file.write_text(json.dumps(content), encoding="utf-8")
    ran = rs_cache("train", "--config", "train.yaml", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["left_out"] == {"shapes-train-small": {"image not in the cache": 1, "without boxes": 1}}
    assert "left out 1 image not in the cache" in ran.err
    names = (workplace / RUN / "classes.txt").read_text().splitlines()
    assert all(name.startswith("my ") for name in names)


def test_annotations_that_are_gone_are_named_with_a_way_out(workplace: Path) -> None:
    copy = workplace / "copy.json"
    shutil.copy(workplace / "rs-cache-data/datasets/shapes/train.json", copy)
    images = workplace / "rs-cache-data/datasets/shapes"
    small = ("--backbone", "small.yaml", "--cache", "cache", "--limit", 4)
    ran = rs_cache("extract", "--dataset", copy, "--images", images, *small)
    assert ran.code == 0, ran.err
    moved = copy.rename(workplace / "moved.json")
    options = ("train", "--config", "train.yaml", "--cache", "cache")
    ran = rs_cache(*options)
    assert ran.code == 1
    assert str(copy) in ran.error["error"]
    assert "--set datasets.cache=FILE.json" in ran.error["next"]
    ran = rs_cache(*options, "--set", f"datasets.cache={moved}", "--json")
    assert ran.code == 0, ran.err
    left_out = ran.json["left_out"]["cache"]
    assert left_out["image not in the cache"] == 20
    assert "box not in the cache" not in left_out


def test_labels_need_no_image_files(extracted: Path) -> None:
    """Nor that the names in a file of one's own begin with the same folder as those of the extraction."""
    content = annotations(extracted / "rs-cache-data/datasets/shapes/train.json")
    for image in content["images"]:
        image["file_name"] = f"v1/{image['file_name']}"
    folder = extracted / "elsewhere"
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps(content), encoding="utf-8")
    ran = rs_cache(
        *("train", "--config", "train.yaml", "--json"),
        *("--set", f"datasets.shapes-train-small={folder / 'train.json'}"),
    )
    assert ran.code == 0, ran.err
    assert ran.json["left_out"] == {"shapes-train-small": {}}


def test_a_workplace_that_was_moved_as_a_whole(tmp_path: Path, world: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    fill_workplace(before, world)
    ran = rs_cache("extract", "--backbone", "small.yaml", "--limit", 8, cwd=before)
    assert ran.code == 0, ran.err
    after = before.rename(tmp_path / "after")
    ran = rs_cache("train", "--config", "train.yaml", "--json", cwd=after)
    assert ran.code == 0, ran.err
    assert ran.json["left_out"] == {"shapes-train-small": {}}
    assert not before.exists()
