"""Caches in the usual folder: found by the pictures that they show, named without collisions."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluate.cached import CachedFeatures, FoundFeatures, cached_features
from pipeline.usual_caches import cache_path
from regionspot_cache.backbones import load_preset
from regionspot_cache.datasets import DetectionDataset, load_dataset
from regionspot_cache.store import create_cache, open_cache
from tests.running import rs_cache
from tests.store.small_world import clip_part

CACHE, RUN = "rs-cache-data/caches/shapes-val-small", "rs-cache-data/runs/small"
TOKENS, MAP = "sam/transformer", "clip/map"
Find = Callable[[DetectionDataset], FoundFeatures]


@pytest.fixture
def find(finished: Path, small_backbone, monkeypatch: pytest.MonkeyPatch) -> Find:
    monkeypatch.chdir(finished)
    return lambda dataset: cached_features(None, dataset, small_backbone, {"sam", "clip"})


def load(file: Path, images: Path) -> DetectionDataset:
    return load_dataset(str(file), data_root=file.parent, images=images)


def annotations(finished: Path, to: Path, *, below: str = "") -> Path:
    """The annotations of the cache under another name, their file names as from the folder `below`."""
    content = json.loads((finished / "rs-cache-data/datasets/shapes/val.json").read_text())
    for image in content["images"]:
        image["file_name"] = image["file_name"].removeprefix(below)
    to.write_text(json.dumps(content))
    return to


@pytest.mark.parametrize("below", ["", "val/"])
def test_annotations_of_another_name_have_the_features_of_their_pictures(
    below: str, find: Find, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where their file names start at a folder within."""
    images = finished / "rs-cache-data/datasets/shapes/images" / below
    dataset = load(annotations(finished, tmp_path / "b.json", below=below), images)
    found = find(dataset)
    assert [Path(url).name for url in found.urls] == [Path(CACHE).name]
    assert f"{CACHE} has 8 of 8 images of b." in capsys.readouterr().err
    cache = open_cache(CACHE)
    for i, record in enumerate(dataset):
        features = found.of(i, record.boxes)
        assert features is not None
        assert {TOKENS, MAP} <= set(features)
        at = cache.file_names.index(below + record.file_name)
        np.testing.assert_array_equal(features[TOKENS], cache.read(TOKENS, at))


def test_pictures_of_the_same_names_elsewhere_are_others(find: Find, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "rs-cache-data/datasets/shapes/images", tmp_path / "images")
    found = find(load(annotations(finished, tmp_path / "b.json"), tmp_path / "images"))
    assert found.urls == []
    assert found.of(0, np.zeros((0, 4), np.float32)) is None


def test_of_a_changed_picture_nothing_is_cached(finished: Path, tmp_path: Path) -> None:
    """A copy has another time, and the same content."""
    shutil.copytree(finished / "rs-cache-data/datasets/shapes/images", tmp_path / "images")
    dataset = load(annotations(finished, tmp_path / "b.json"), tmp_path / "images")
    changed, other, gone = (tmp_path / "images" / name for name in dataset.file_names[:3])
    shutil.copy(other, changed)
    gone.unlink()
    cached = CachedFeatures(open_cache(finished / CACHE), dataset, ["sam", "clip"])
    kept = [set(cached.of(i, record.boxes) or ()) for i, record in enumerate(dataset)]
    assert kept[0] == set()
    assert all({TOKENS, MAP} <= paths for paths in kept[1:])


def test_of_several_caches_each_gives_what_it_has(finished: Path, tmp_path: Path) -> None:
    dataset = load_dataset("shapes:val", data_root=finished / "rs-cache-data/datasets")
    cache = open_cache(finished / CACHE)
    found = FoundFeatures([CachedFeatures(cache, dataset, [part]) for part in ("clip", "sam")])
    features = found.of(3, dataset[3].boxes)
    assert features is not None
    at = cache.file_names.index(dataset[3].file_name)
    np.testing.assert_array_equal(features[TOKENS], cache.read(TOKENS, at))
    np.testing.assert_array_equal(features[MAP], cache.read(MAP, at))


def test_annotations_of_one_name_with_other_pictures_have_a_cache_of_their_own(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sets = {}
    for name in "first", "second", "third":
        shutil.copytree(finished / "rs-cache-data/datasets/shapes/images/val", tmp_path / name / "val")
        sets[name] = load(annotations(finished, tmp_path / name / "boxes.json"), tmp_path / name)
    spec = load_preset("tiny")
    places = []
    for dataset in sets.values():
        places.append(Path(cache_path(None, dataset, spec)))
        create_cache(places[-1], dataset, partition_size=4, parts=[clip_part()])
    assert [place.name for place in places] == ["boxes-tiny", "boxes-tiny-2", "boxes-tiny-3"]
    assert [Path(cache_path(None, dataset, spec)) for dataset in sets.values()] == places
    # A file that was moved away takes its cache with it, one of the same pictures is looked at as before.
    (tmp_path / "first/boxes.json").rename(tmp_path / "boxes.json")
    moved = load(tmp_path / "boxes.json", tmp_path / "first")
    assert Path(cache_path(None, moved, spec)) == places[0]
    assert cache_path("mine", moved, spec) == "mine"


def test_label_says_which_cache_it_took(finished: Path, tmp_path: Path) -> None:
    """Boxes of a CSV file that another program wrote."""
    dataset = load_dataset("shapes:val", data_root=finished / "rs-cache-data/datasets")
    rows = [
        f"{record.file_name},{','.join(map(repr, box.tolist()))}"
        for record in dataset
        for box in record.boxes
    ]
    (tmp_path / "boxes.csv").write_text("\n".join(["image,x0,y0,x1,y1", *rows]))
    (tmp_path / "names.txt").write_text("circle\nstar\n")
    ran = rs_cache(
        "label", tmp_path / "boxes.csv", "--images", "rs-cache-data/datasets/shapes/images",
        "--checkpoint", RUN, "--classes", tmp_path / "names.txt", "--out", tmp_path / "a.json", "--json",
        cwd=finished,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.json["from_cache"] == {MAP: 8, TOKENS: 8}
    assert f"{CACHE} has 8 of 8 images of boxes." in ran.err
