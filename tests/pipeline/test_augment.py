"""Extra views from end to end: announced, extracted for both parts alike, verified, trained on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.evaluate.cached import CachedFeatures
from pipeline.evaluate.recognise import Regions
from regionspot_cache.datasets import load_dataset
from regionspot_cache.datasets.augmentation import ViewTable
from regionspot_cache.recognition.proposals import ground_truth_proposals
from regionspot_cache.store import Cache, open_cache
from tests.pipeline.test_recognise import MAP, TOKENS, Fixed, recognition
from tests.running import features, rs_cache

CACHE = Path("augmented")
IMAGES = Path("rs-cache-data/datasets/shapes/images")
SAMPLE = ("extract", "--backbone", "small.yaml", "--limit", 6)
EXTRACT = (*SAMPLE, "--cache", CACHE)
EXACT = ("--set", "dtype=float16", "--set", "batch_size=1", "--set", "partition_size=4")
VIEWS = ("--set", "augment.flip=true", "--set", "augment.crops=2", "--set", "augment.jitter=0.05")


@pytest.fixture(scope="module")
def augmented(finished: Path) -> Path:
    ran = rs_cache(*EXTRACT, *EXACT, *VIEWS, cwd=finished)
    assert ran.code == 0, ran.err
    assert "6 images in " in ran.err
    assert "(original, flip, crop 1, crop 2)" in ran.err
    return finished


@pytest.fixture
def copied(augmented: Path, workplace: Path) -> Path:
    shutil.copytree(augmented / CACHE, workplace / CACHE)
    return workplace


def picture_of(cache: Cache, i: int, place: Path) -> np.ndarray:
    """The view as an image editor makes it."""
    part, slot = cache.partition(i // cache.partition_size), i % cache.partition_size
    assert part.views is not None
    whole = Image.open(place / IMAGES / part.file_names[slot]).convert("RGB")
    width, height, left, top, right, bottom = part.views.frames[slot].tolist()
    assert (width, height) == whole.size
    if part.views.numbers[slot] == 1:
        return np.asarray(ImageOps.mirror(whole))
    return np.asarray(whole.crop((left, top, right, bottom)))


def position(cache: Cache, file_name: str) -> int:
    """Of the picture as it is."""
    assert cache.views is not None
    (found,) = (i for i in np.flatnonzero(cache.views == 0).tolist() if cache.file_names[i] == file_name)
    return found


def test_both_parts_show_the_same_view_as_the_networks_do(augmented: Path, small_backbone) -> None:
    cache, parts = open_cache(augmented / CACHE), small_backbone.parts
    assert set(np.unique(cache.views)) == {0, 1, 2, 3}
    for i in range(len(cache)):
        picture, boxes = picture_of(cache, i, augmented), cache.boxes(i)
        assert cache.size(i) == (picture.shape[1], picture.shape[0])
        found = {
            name: encoder.encode(encoder.preprocess(picture)[None], [boxes], [picture.shape[:2]])
            for name, encoder in parts.items()
        }
        tokens = found["sam"]["transformer"][0].float().cpu().numpy().astype(np.float16)
        np.testing.assert_array_equal(cache.raw_boxes(TOKENS, i)[0], tokens)
        feature_map = found["clip"]["map"][0].float().cpu().numpy().astype(np.float16)
        np.testing.assert_array_equal(cache.raw_images(MAP, [i])[0][0], feature_map)


def test_mirrored_boxes_lie_on_the_mirrored_picture(augmented: Path) -> None:
    """Within the jitter of 5 % of the sides, which the original view does not have."""
    cache = open_cache(augmented / CACHE)
    for i in np.flatnonzero(cache.views == 1).tolist():
        original = position(cache, cache.file_names[i])
        boxes, width = cache.boxes(original), cache.size(i)[0]
        mirrored = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        assert (np.abs(cache.boxes(i) - mirrored) <= 0.05 * sides + 1e-3).all()
        assert (cache.boxes(i) != mirrored).any()


def test_a_dry_run_shows_views_and_their_bytes(augmented: Path) -> None:
    plain = rs_cache(*SAMPLE, *EXACT, "--cache", "plain", "--dry-run", "--json", cwd=augmented).json
    facts = rs_cache(*EXTRACT, *EXACT, *VIEWS, "--dry-run", "--json", cwd=augmented).json
    cache = open_cache(augmented / CACHE)
    assert facts["images"] == plain["images"] == 6
    assert facts["images_x_views"] == len(cache)
    assert facts["views_an_image"] == "original, flip, crop 1, crop 2"
    assert facts["boxes"] == cache.num_boxes
    assert facts["bytes_without_extra_views"] == plain["bytes"]["total"]
    for name in ("clip/map", "sam/transformer", "plan/frames"):
        assert facts["bytes"][name] == sum(f.stat().st_size for f in (augmented / CACHE / name).glob("c.*"))
    assert "views_an_image" not in plain
    text = rs_cache(*EXTRACT, *EXACT, *VIEWS, "--dry-run", cwd=augmented).out
    assert "without extra views" in text
    usual = rs_cache("extract", "--backbone", "small.yaml", "--limit", 2, *VIEWS, "--dry-run", cwd=augmented)
    assert "shapes-train-small-views" in usual.out  # not where the cache without them lies
    assert f"with them {facts['bytes']['total'] / plain['bytes']['total']:.2f} times that" in text


def test_info_status_and_verify_know_the_views(augmented: Path) -> None:
    cache = open_cache(augmented / CACHE)
    facts = rs_cache("info", CACHE, "--json", cwd=augmented).json
    counted = np.bincount(cache.views).tolist()
    assert facts["views"] == dict(zip(("original", "flip", "crop 1", "crop 2"), counted, strict=True))
    assert facts["identity"]["augmentation"]["jitter"] == 0.05
    text = rs_cache("info", CACHE, cwd=augmented).out
    assert "6 flip, 6 original" in text
    assert "min_scale 0.5" in text
    assert rs_cache("status", CACHE, "--json", cwd=augmented).json["images"] == len(cache)
    arguments = ("verify", CACHE, "--full", "--recompute", len(cache), "--backbone", "small.yaml")
    ran = rs_cache(*arguments, "--images", IMAGES, "--json", cwd=augmented)
    assert ran.code == 0, ran.err
    assert ran.json["recomputed"]["images"] == len(cache)


@pytest.mark.parametrize(
    "mutate",
    [
        lambda frames: frames[:, [0, 1, 4, 3, 2, 5]],  # every view mirrored
        lambda frames: np.concatenate([frames[:, :2], np.zeros_like(frames[:, :2]), frames[:, :2]], axis=1),
    ],
)
def test_recomputing_finds_a_record_that_is_another_view(
    mutate: Callable[[np.ndarray], np.ndarray], augmented: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from regionspot_cache.store.plan_store import StoredPlan

    real = StoredPlan.views

    def other(plan: StoredPlan, index: int) -> ViewTable:
        views = real(plan, index)
        return ViewTable(numbers=views.numbers, origins=views.origins, frames=mutate(views.frames))

    monkeypatch.setattr(StoredPlan, "views", other)
    arguments = ("verify", CACHE, "--recompute", 1000, "--backbone", "small.yaml", "--images", IMAGES)
    ran = rs_cache(*arguments, cwd=augmented)
    assert ran.code == 4, ran.err


def test_a_mended_image_is_mended_in_every_view(augmented: Path, workplace: Path) -> None:
    part = open_cache(augmented / CACHE).partition(0)
    file = workplace / IMAGES / part.file_names[0]
    file.rename(file.with_suffix(".away"))
    ran = rs_cache(*EXTRACT, *EXACT, *VIEWS, "--json")
    assert ran.code == 3, ran.err
    views = sum(
        name == part.file_names[0] for p in range(6) for name in open_cache(CACHE).partition(p).file_names
    )
    assert ran.json["failures"] == {"missing": views}
    file.with_suffix(".away").rename(file)
    assert rs_cache(*EXTRACT, *EXACT, *VIEWS).code == 0
    assert features(workplace / CACHE) == features(augmented / CACHE)


def test_other_views_are_refused_by_name(copied: Path) -> None:
    ran = rs_cache(*EXTRACT, *EXACT, *VIEWS, "--set", "augment.seed=4")
    assert ran.code == 4
    assert "augmentation.seed = 0" in ran.error["error"]
    ran = rs_cache(*EXTRACT, *EXACT, "--set", "augment.jitter=0.1")
    assert ran.code == 2
    assert "augment.flip=true" in ran.err
    ran = rs_cache(*EXTRACT, *EXACT, "--set", "augment.flp=true")
    assert ran.code == 2
    assert "augment.flip" in ran.error["expected"]


def train(*more: object) -> tuple[int, dict, str]:
    out = f"run-{abs(hash(more))}"
    ran = rs_cache("train", "--config", "train.yaml", "--cache", CACHE, "--out", out, *more, "--json")
    return ran.code, ran.json if ran.code == 0 else ran.error, ran.err


def test_training_takes_one_view_or_the_original(copied: Path) -> None:
    cache = open_cache(CACHE)
    code, facts, _ = train()
    assert (code, facts["left_out"]) == (0, {"augmented": {}})
    code, facts, _ = train("--set", "training.views=original")
    assert (code, facts["left_out"]) == (0, {"augmented": {"extra views": len(cache) - 6}})


def boxed_names() -> list[str]:
    """Classes of the six images; in their views are no others."""
    dataset = load_dataset("shapes", data_root=Path("rs-cache-data/datasets"), limit=6)
    return [dataset.class_names[label] for label in np.unique(dataset.labels)]


def test_training_with_a_class_tree(copied: Path) -> None:
    names = boxed_names()
    kinds = [{"LabelName": name} for name in names[1:]]
    tree = {"LabelName": "thing", "Subcategory": [{"LabelName": names[0], "Subcategory": kinds}]}
    Path("tree.json").write_text(json.dumps(tree))
    code, _, said = train("--set", "hierarchies.augmented=tree.json")
    assert code == 0, said
    assert f"{len(names)} of {len(names)} classes have ancestors or descendants" in said
    assert f"{len(names) - 1} pairs" in said


@pytest.mark.parametrize(
    ("tree", "setting", "code", "found"),
    [
        ({"LabelName": "thing"}, "augmented", 1, "knows 0 of the"),
        ({"LabelName": "thing"}, "other", 2, "'other', which is no cache of this run"),
        (None, "augmented", 1, "no file tree.json"),
    ],
)
def test_class_trees_that_do_not_fit(
    tree: dict | None, setting: str, code: int, found: str, copied: Path
) -> None:
    if tree:
        Path("tree.json").write_text(json.dumps(tree))
    got, error, _ = train("--set", f"hierarchies.{setting}=tree.json")
    assert got == code
    assert found in error["error"]


def test_the_source_of_a_cache_with_a_tree_ignores_its_relatives(copied: Path, small_backbone) -> None:
    from pipeline.train import training_source
    from pipeline.verbs.train import PromptSettings, TrainSettings

    names = boxed_names()
    kinds = [{"LabelName": names[2]}]
    others = [{"LabelName": name} for name in names[3:]]
    tree = {"LabelName": names[0], "Subcategory": [{"LabelName": names[1], "Subcategory": kinds}]}
    Path("tree.json").write_text(json.dumps({"LabelName": "thing", "Subcategory": [tree, *others]}))
    settings = TrainSettings(
        hierarchies={"augmented": Path("tree.json")}, prompts=PromptSettings(templates="single")
    )
    source = training_source(str(CACHE), small_backbone, settings)
    rows = [source.class_names.index(name) for name in names[:3]]
    expected = np.zeros((len(names), len(names)), bool)
    expected[np.ix_(rows, rows)] = True
    np.fill_diagonal(expected, False)
    np.testing.assert_array_equal(source.ignore, expected)
    without = TrainSettings(prompts=settings.prompts)
    assert training_source(str(CACHE), small_backbone, without).ignore is None


def test_recognition_takes_the_features_of_the_images_as_they_are(augmented: Path, small_backbone) -> None:
    dataset = load_dataset("shapes", data_root=augmented / "rs-cache-data/datasets", limit=6)
    cache, method = open_cache(augmented / CACHE), Fixed()
    regions = Regions(known=ground_truth_proposals(dataset))
    cached = CachedFeatures(cache, dataset, cache.parts)
    found = recognition(dataset, small_backbone, regions, cached=cached).run([method])
    assert found.from_cache == {MAP: 6, TOKENS: 6}
    for record, inputs in zip(dataset, method.inputs, strict=True):
        np.testing.assert_array_equal(inputs.boxes, record.boxes)
        there = cache.read(MAP, position(cache, record.file_name))
        np.testing.assert_array_equal(inputs.memory((MAP,)).numpy(), there)
