"""`extract --dry-run` against what an extraction then writes."""

from collections import Counter
from pathlib import Path

import pytest

from pipeline.console import counts
from pipeline.plan import backbone_spec, free_space
from pipeline.verbs.extract import ExtractSettings
from regionspot_cache.store import open_writer
from tests.running import rs_cache


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("--set", "dtype=float16"),
        ("--backbone", "everything.yaml"),
        ("--part", "clip", "--limit", "10"),
    ],
)
def test_the_announced_bytes_are_those_on_the_disk(workplace: Path, settings: tuple[str, ...]) -> None:
    backbone = () if "--backbone" in settings else ("--backbone", "small.yaml")
    arguments = ("extract", *backbone, "--set", "partition_size=7", *settings, "--json")
    planned = rs_cache(*arguments, "--dry-run")
    assert planned.code == 0
    facts, cache = planned.json, Path(planned.json["cache"])
    assert not cache.exists()
    assert rs_cache(*arguments).code == 0
    files = [f for folder in ("plan", "sam", "clip") for f in (cache / folder).rglob("*") if f.is_file()]
    found: Counter[str] = Counter()
    for file in files:
        if file.name != "zarr.json":
            found["/".join(file.relative_to(cache).parts[:2])] += file.stat().st_size
    arrays = {name: size for name, size in facts["bytes"].items() if "/" in name}
    assert arrays == found  # to the byte
    if "--limit" not in settings:
        on_disk = sum(file.stat().st_size for file in files)
        assert facts["bytes"]["total"] == pytest.approx(on_disk, rel=0.02)


def test_precision_and_compilation_are_those_of_every_part() -> None:
    spec = backbone_spec(ExtractSettings(precision="bf16", compile="never"))
    assert [(part.precision, part.compile) for part in spec.parts.values()] == [("bf16", "never")] * 2


def test_a_dry_run_for_people(workplace: Path) -> None:
    ran = rs_cache("extract", "--backbone", "small.yaml", "--dry-run")
    assert ran.code == 0
    for word in ("images", "boxes", "partitions", "clip/map", "sam/transformer", "hours", "total", "free:"):
        assert word in ran.out
    assert "measured here" in ran.out
    assert ran.out.split()[0] == "dataset"
    assert not Path("rs-cache-data/caches").exists()


@pytest.mark.parametrize("backbone", ["bb", "bl336"])
def test_no_weights_are_needed(backbone: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RS_CACHE_HOME", str(workplace / "none"))
    monkeypatch.setenv("HF_HUB_CACHE", str(workplace / "none"))

    def fetched(*_: object, **__: object) -> None:
        raise AssertionError("a dry run fetches nothing")

    monkeypatch.setattr("pipeline.plan.backbone_of", fetched)
    monkeypatch.setattr("regionspot_cache.backbones.load.fetch", fetched)
    found = rs_cache("extract", "--backbone", backbone, "--dry-run", "--json").json
    assert found["weights_not_here"] == ["sam", "clip"]
    assert found["hours"] is None
    tokens, width = {"bb": (197, 768), "bl336": (577, 1024)}[backbone]
    assert found["bytes"]["clip/map"] > 24 * tokens * width
    assert found["bytes_left"] == sum(
        size for path, size in found["bytes"].items() if path.startswith(("sam", "clip"))
    )
    assert "are not here yet" in rs_cache("extract", "--backbone", backbone, "--dry-run").out


def test_finished_work_and_workers_are_counted(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.plan.measured_rate", lambda *_: 0.001)
    arguments = ("extract", "--backbone", "small.yaml", "--set", "partition_size=4")
    whole = rs_cache(*arguments, "--dry-run", "--json").json
    assert (whole["images_left"], whole["hours"]) == (24, round(24 / 0.001 / 3600, 3))
    assert rs_cache(*arguments, "--dry-run", "--workers", 4, "--json").json["hours"] == round(
        whole["hours"] / 4, 3
    )
    assert rs_cache(*arguments).code == 0
    done = rs_cache(*arguments, "--dry-run", "--json").json
    assert (done["images_left"], done["bytes_left"], done["hours"]) == (0, 0, None)
    writer = open_writer(done["cache"])
    gone = writer.markers("clip")[2].stored_bytes
    writer.discard("clip", 2)
    left = rs_cache(*arguments, "--dry-run", "--json").json
    assert (left["images_left"], left["bytes_left"]) == (4, gone)
    assert left["hours"] == round(4 / 0.001 / 3600, 3)
    refused = rs_cache(*arguments, "--dry-run", "--set", "seed=1")
    assert refused.code == 4
    assert "seed" in refused.error["error"]


def test_no_room_is_said_before_the_work(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.extract.free_space", lambda path: 1000)
    ran = rs_cache("extract", "--backbone", "small.yaml")
    assert ran.code == 1
    assert "has 1.00 KB free" in ran.error["error"]
    assert "--limit" in ran.error["next"]


def test_free_space_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_space(str(tmp_path / "a" / "b")) == pytest.approx(free_space(str(tmp_path)), rel=0.05)
    assert free_space("s3://bucket/cache") is None


def test_counts_as_text() -> None:
    assert counts({"missing": 1, "crowd": 3}) == "3 crowd, 1 missing"
    assert counts({}) == "none"
