"""`rs-cache train` on regions that a teacher and captions describe, from pictures to a head."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import BACKBONE, TRAINING, fill_workplace
from tests.running import rs_cache

RUN, REGIONS = Path("rs-cache-data/runs/small"), Path("regions")
TEACHER = BACKBONE.replace(
    "proposer:",
    '  teacher: {network: regionclip, model: packaged, weights: "random:4", short_side: 64, long_side: 128}\n'
    "proposer:",
)
CAPTIONS = TRAINING.replace("caches: [rs-cache-data/caches/shapes-train-small]", "caches: []")
CAPTIONS = CAPTIONS.replace("small.yaml", "teacher.yaml").replace("head: {", "head: {offset: true, ")
CAPTIONS += """\
  log_every: 1
captions: {caches: [regions], pool: pool.txt, templates: single, threshold: 0.02, regions: 8, top_k: 3}
"""
POOL = "a red circle,12\nblue square\nstar\ntriangle\nsomething else\n"


@pytest.fixture(scope="module")
def proposed(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Path:
    """A workplace with a cache of regions and one of labelled boxes. Tests must not change it."""
    place = fill_workplace(tmp_path_factory.mktemp("proposed"), world)
    (place / "teacher.yaml").write_text(TEACHER)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        images = "rs-cache-data/datasets/shapes/images"
        for command in (
            f"propose --backbone small.yaml --top-n 12 --limit 12 --out {REGIONS}.json",
            f"extract --dataset {REGIONS}.json --images {images} --backbone teacher.yaml --cache {REGIONS}",
            "extract --dataset shapes --limit 8 --backbone small.yaml --cache boxes",
        ):
            ran = rs_cache(*command.split())
            assert ran.code == 0, ran.err
    return place


@pytest.fixture
def place(proposed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: settings of its own, the data of `proposed`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rs-cache-data").mkdir()
    for name in ("rs-cache-data/datasets", "regions.json", "teacher.yaml", "boxes"):
        (tmp_path / name).symlink_to(proposed / name)
    shutil.copytree(proposed / REGIONS, tmp_path / REGIONS)
    (tmp_path / "captions.yaml").write_text(CAPTIONS)
    (tmp_path / "pool.txt").write_text(POOL)
    return tmp_path


def derived() -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (REGIONS / "derived").rglob("*.npy")}


def test_a_head_is_trained_from_captions_alone(place: Path) -> None:
    ran = rs_cache("train", "--config", "captions.yaml", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["steps"] == 6
    assert ran.json["left_out"] == {"regions": {}}
    assert "12 captions of 12 of 12 images" in ran.err
    assert (RUN / "classes.txt").read_text().splitlines() == [
        line.partition(",")[0] for line in POOL.splitlines()
    ]
    losses = [json.loads(line)["loss"] for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    assert all(loss > 0.1 for loss in losses)
    assert len({path.rpartition("/")[0] for path in derived()}) == 2
    found = rs_cache("eval", "--checkpoint", str(RUN), "--limit", "4", "--json")
    assert found.code == 0, found.err


def test_another_temperature_derives_concepts_again_and_nothing_else(place: Path) -> None:
    assert rs_cache("train", "--config", "captions.yaml").code == 0
    first = derived()
    ran = rs_cache(
        "train", "--config", "captions.yaml", "--set", "captions.temperature=0.05", "--out", "other"
    )
    assert ran.code == 0, ran.err
    second = derived()
    assert second.items() >= first.items()
    assert len(second) == len(first) + 1
    refused = rs_cache("train", "--config", "captions.yaml", "--set", "captions.temperature=0.05")
    assert refused.code == 4
    assert "regions.concepts.temperature" in refused.err


def test_boxes_and_captions_make_one_head(place: Path) -> None:
    both = ("--set", "caches=[boxes]", "--set", "scales.regions=0.5")
    ran = rs_cache("train", "--config", "captions.yaml", *both, "--json")
    assert ran.code == 0, ran.err
    assert set(ran.json["left_out"]) == {"boxes", "regions"}
    assert "red circle" not in (RUN / "classes.txt").read_text().splitlines()
    config = json.loads((RUN / "config.json").read_text())
    assert set(config["trained_on"]) == {"boxes", "regions"}
    assert config["head"]["offset"]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ("captions.pool=nothing.txt", 1, "no file nothing.txt"),
        ("captions.pool=null", 2, "captions.caches without captions.pool"),
        ("captions.teacher=other/region", 2, "has the parts sam, clip, teacher"),
        ("captions.teacher=sam/transformer", 2, "embeds no texts"),
        ("captions.teacher=clip/map", 1, "as teacher"),
        ("captions.templates=nonsense", 2, "nonsense"),
        ("captions.threshold=1.5", 2, "threshold 1.5"),
        ("captions.top_k=0", 2, "top_k"),
        ("scales.other=2.0", 2, "no cache of this run"),
    ],
)
def test_settings_that_make_no_sense_are_refused(place: Path, change: str, code: int, said: str) -> None:
    ran = rs_cache("train", "--config", "captions.yaml", "--set", change)
    assert ran.code == code, ran.err
    assert said in ran.err
