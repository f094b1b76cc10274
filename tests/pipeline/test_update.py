"""Annotations that change: labels cost nothing, `--update` computes what is new and touches nothing else."""

import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from regionspot_cache.store import open_cache
from regionspot_cache.store import verify as problems_of
from tests.pipeline.launcher import KILLED, Launcher
from tests.running import Ran, rs_cache

IMAGES = Path("rs-cache-data/datasets/shapes/images")
SHAPES = Path("rs-cache-data/datasets/shapes/train.json")
MINE, CACHE = Path("mine.json"), Path("mine-cache")
EXTRACT = (
    *("extract", "--dataset", MINE, "--images", IMAGES, "--cache", CACHE),
    *("--backbone", "small.yaml", "--set", "partition_size=2", "--set", "batch_size=2", "--json"),
)
Change = Callable[[dict[str, Any]], None]


def write(change: Change | None = None, place: Path = Path()) -> None:
    """The annotations of the built-in world, changed, as a file of the user's own."""
    value = json.loads((place / SHAPES).read_text())
    if change:
        change(value)
    (place / MINE).write_text(json.dumps(value))


def kept(cache: Path) -> dict[str, str]:
    """SHA-256 of all that does not tell when or by whom a cache was made."""
    told = ("markers", "staging", "manifest.json", "cache.json")
    return {
        path.relative_to(cache).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(cache.rglob("*"))
        if path.is_file() and not set(told).intersection(path.relative_to(cache).parts)
    }


def extract(*arguments: object, code: int = 0) -> Ran:
    ran = rs_cache(*EXTRACT, *arguments)
    assert ran.code == code, ran.err
    return ran


def fewer(count: int) -> Change:
    """Without the last images."""

    def change(value: dict[str, Any]) -> None:
        value["images"] = value["images"][:-count]
        ids = {image["id"] for image in value["images"]}
        value["annotations"] = [a for a in value["annotations"] if a["image_id"] in ids]

    return change


def relabelled(value: dict[str, Any]) -> None:
    value["categories"].append({**value["categories"][0], "id": 999, "name": "a thing of mine"})
    value["annotations"][0]["category_id"] = 999
    value["images"].reverse()


def edited(value: dict[str, Any]) -> None:
    """Two images less at the front, and one box that moved."""
    gone = {image["id"] for image in value["images"][:2]}
    value["images"] = value["images"][2:]
    value["annotations"] = [a for a in value["annotations"] if a["image_id"] not in gone]
    value["annotations"][60]["bbox"][0] += 2.0


def test_other_labels_compute_nothing_and_are_trained_on(workplace: Path) -> None:
    write()
    assert extract().json["computed_images"] == 24
    before = kept(CACHE)
    write(relabelled)
    assert extract().json["computed_images"] == 0
    assert kept(CACHE) == before
    training = ("train", "--config", "train.yaml", "--cache", CACHE, "--out", "run", "--json")
    ran = rs_cache(*training)
    assert ran.code == 0, ran.err
    texts = [path.read_bytes() for path in Path("run").rglob("*") if path.is_file()]
    assert any(b"a thing of mine" in text for text in texts)


def test_an_update_of_labels_alone_names_the_new_file(workplace: Path) -> None:
    write()
    extract()
    write(relabelled)
    MINE.rename("other.json")
    features = kept(CACHE)
    other = [Path("other.json") if argument == MINE else argument for argument in EXTRACT]
    assert rs_cache(*other, "--update").json["computed_images"] == 0
    assert kept(CACHE) == features | {"segments.json": kept(CACHE)["segments.json"]}
    assert Path(open_cache(CACHE).source.dataset).name == "other.json"


def test_another_file_over_the_same_pictures_uses_what_fits(workplace: Path) -> None:
    write()
    extract()
    write(fewer(10))
    assert extract().json["computed_images"] == 0
    write(lambda value: value["annotations"][0]["bbox"].__setitem__(0, 1.0))
    error = extract(code=4).error
    assert "lacks 0 of 24 images" in error["error"]
    assert "boxes of 1 more" in error["error"]
    assert "--update" in error["next"]


def test_an_update_adds_redoes_and_gives_up_and_rewrites_nothing(workplace: Path) -> None:
    write(fewer(4))
    extract()
    before = kept(CACHE)
    write(edited)
    planned = rs_cache(*EXTRACT, "--update", "--dry-run")
    assert planned.json["images_left"] == 5  # four are new, and one is redone
    found = extract("--update").json
    assert (found["images"], found["computed_images"]) == (22, 5)
    after = kept(CACHE)
    assert before.items() <= after.items()
    assert rs_cache("verify", CACHE, "--full").code == 0
    cache = open_cache(CACHE)
    assert int(cache.live.sum()) == 22
    assert extract("--update").json["computed_images"] == 0
    assert kept(CACHE) == after
    assert extract().json["computed_images"] == 0


def test_a_picture_that_changed_is_redone(workplace: Path) -> None:
    from PIL import Image

    write()
    extract()
    path = IMAGES / "train/000003.jpg"
    with Image.open(path) as image:
        turned = image.rotate(180)
    path.unlink()
    turned.save(path)
    assert extract("--update").json["computed_images"] == 1
    assert extract("--update").json["computed_images"] == 0


def test_an_update_needs_every_part_of_the_cache(workplace: Path) -> None:
    write(fewer(4))
    extract()
    write()
    assert "stay behind" in extract("--update", "--part", "clip", code=1).error["error"]
    assert extract("--update").json["computed_images"] == 4


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, world: Path, launcher: Launcher
) -> Iterator[tuple[Path, dict[str, str], float]]:
    """A place with a cache before its update, what the update makes of it, and its seconds."""
    from tests.conftest import fill_workplace

    place = fill_workplace(tmp_path_factory.mktemp("before"), world)
    write(fewer(10), place)
    assert launcher.run(*EXTRACT, cwd=place).code == 0
    shutil.copytree(place / CACHE, place / "spare")
    write(edited, place)
    start = time.monotonic()
    ran = launcher.run(*EXTRACT, "--update", cwd=place)
    assert ran.code == 0, ran.err
    yield place, kept(place / CACHE), time.monotonic() - start
    shutil.rmtree(place)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_an_update_that_is_killed_at_random_moments(
    kills: int, launcher: Launcher, undisturbed: tuple[Path, dict[str, str], float]
) -> None:
    place, expected, seconds = undisturbed
    rng, done = random.Random(kills), 0

    def afresh() -> None:
        shutil.rmtree(place / CACHE)
        shutil.copytree(place / "spare", place / CACHE)

    afresh()
    while done < kills:
        child = launcher.start(*EXTRACT, "--update", cwd=place)
        end = time.monotonic() + rng.uniform(0.1, 0.9) * seconds
        while child.runs and time.monotonic() < end:
            time.sleep(0.002)
        child.kill()
        if child.wait().code != KILLED:
            afresh()
            continue
        done += 1
        assert [p for p in problems_of(place / CACHE, "full") if p.is_damage] == []
        if (place / CACHE / "update.json").exists():
            ran = rs_cache("train", "--config", "train.yaml", "--cache", CACHE, cwd=place)
            assert ran.code == 3
            assert "update" in ran.error["error"]
    ran = launcher.run(*EXTRACT, "--update", cwd=place)
    assert ran.code == 0, ran.err
    assert rs_cache("verify", place / CACHE, "--full").code == 0
    assert kept(place / CACHE) == expected
