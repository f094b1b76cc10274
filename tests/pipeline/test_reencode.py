"""`rs-cache convert`."""

import shutil
import time
from pathlib import Path

import pytest

from tests.pipeline.launcher import KILLED, Launcher
from tests.running import features, rs_cache

CACHE, OUT = Path("rs-cache-data/caches/shapes-train-small"), Path("rs-cache-data/caches/dense")


@pytest.fixture
def copied(workplace: Path, finished: Path) -> Path:
    """A cache of 24 images in 6 partitions."""
    shutil.copytree(finished / CACHE, workplace / CACHE)
    return workplace


@pytest.mark.usefixtures("copied")
def test_a_denser_cache_is_verified_and_trained_on() -> None:
    ran = rs_cache("convert", CACHE, "--dtype", "int4", "--out", OUT, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["bytes"] < 0.65 * ran.json["bytes_before"]
    assert list(ran.json["arrays"]) == ["clip/map"]
    assert 0.9 < ran.json["arrays"]["clip/map"]["cosine_worst"] < 1
    assert rs_cache("verify", OUT, "--full").code == 0
    assert '"dtype":"int4"' in (OUT / "parts/clip.json").read_text().replace(" ", "")
    ran = rs_cache("train", "--config", "train.yaml", "--cache", OUT)
    assert ran.code == 0, ran.err
    assert (
        "0 to do"
        in rs_cache(
            "extract",
            "--backbone",
            "small.yaml",
            "--set",
            "partition_size=4",
            "--set",
            "dtype=int4",
            "--cache",
            OUT,
        ).err
    )


@pytest.mark.usefixtures("copied")
def test_a_finer_type_is_one_error() -> None:
    ran = rs_cache("convert", CACHE, "--dtype", "float16", "--out", OUT)
    assert ran.code == 1
    assert "would be finer" in ran.err
    assert not OUT.exists()


def test_a_killed_conversion_goes_on(copied: Path, launcher: Launcher) -> None:
    whole = OUT.with_name("whole")
    assert rs_cache("convert", CACHE, "--out", whole).code == 0
    child = launcher.start("convert", CACHE, "--out", OUT, cwd=copied)
    while not list(OUT.glob("markers/*/*.json")):
        assert child.runs
        time.sleep(0.002)
    child.kill()
    assert child.wait().code == KILLED
    assert not (OUT / "manifest.json").exists()
    ran = rs_cache("convert", CACHE, "--out", OUT)
    assert ran.code == 0, ran.err
    assert features(OUT) == features(whole)
    assert rs_cache("verify", OUT, "--full").code == 0
