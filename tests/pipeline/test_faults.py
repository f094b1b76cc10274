"""Killed extractors and workers, two extractors at once, full disks, folders that cannot be written."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from regionspot_cache.store import open_writer
from regionspot_cache.store import verify as problems_of
from tests.pipeline.launcher import KILLED, Launcher
from tests.running import features, rs_cache

EXTRACT = (
    "extract",
    "--backbone",
    "small.yaml",
    *("--set", "partition_size=2"),
    *("--set", "batch_size=2"),
)
CACHE = Path("rs-cache-data/caches/shapes-train-small")


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, world: Path, launcher: Launcher
) -> Iterator[tuple[dict[str, str], float]]:
    """Hashes of a cache that nobody disturbed, and the seconds that it took."""
    from tests.conftest import fill_workplace

    place = fill_workplace(tmp_path_factory.mktemp("undisturbed"), world)
    launcher.run("env", cwd=place)  # the first command also pays the imports
    start = time.monotonic()
    ran = launcher.run(*EXTRACT, cwd=place)
    assert ran.code == 0, ran.err
    yield features(place / CACHE), time.monotonic() - start
    shutil.rmtree(place)


def whole_and_equal(place: Path, undisturbed: dict[str, str]) -> None:
    ran = rs_cache("verify", place / CACHE, "--full")
    assert ran.code == 0, ran.out + ran.err
    assert features(place / CACHE) == undisturbed
    assert list((place / CACHE / "staging").iterdir()) == []


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(
    kills: int, workplace: Path, launcher: Launcher, undisturbed: tuple[dict[str, str], float]
) -> None:
    expected, seconds = undisturbed
    rng, done = random.Random(kills), 0
    while done < kills:
        child = launcher.start(*EXTRACT, cwd=workplace)
        end = time.monotonic() + rng.uniform(0.1, 0.9) * seconds
        while child.runs and time.monotonic() < end:
            time.sleep(0.002)
        child.kill()
        if child.wait().code != KILLED:
            shutil.rmtree(workplace / CACHE)
            continue
        done += 1
        if (workplace / CACHE / "cache.json").exists():
            assert [p for p in problems_of(workplace / CACHE, "full") if p.is_damage] == []
    ran = launcher.run(*EXTRACT, cwd=workplace)
    assert ran.code == 0, ran.err
    whole_and_equal(workplace, expected)


@pytest.mark.parametrize("count", [2, 4])
def test_extractors_that_know_nothing_of_each_other_share_the_work(
    count: int, workplace: Path, launcher: Launcher, undisturbed: tuple[dict[str, str], float]
) -> None:
    children = [launcher.start(*EXTRACT, "--json", cwd=workplace) for _ in range(count)]
    summaries = []
    for child in children:
        ran = child.wait()
        assert ran.code == 0, ran.err
        summaries.append(json.loads(ran.out))
    computed = [summary["computed_images"] for summary in summaries]
    assert sum(computed) == summaries[0]["images"]  # nobody does what another has done
    assert sum(images > 0 for images in computed) > 1
    whole_and_equal(workplace, undisturbed[0])


def test_the_work_of_a_killed_extractor_is_taken_over_at_once(
    workplace: Path, launcher: Launcher, undisturbed: tuple[dict[str, str], float]
) -> None:
    first = launcher.start(*EXTRACT, cwd=workplace)
    while first.runs and not list((workplace / CACHE / "staging").glob("work-*")):
        time.sleep(0.002)
    os.kill(first.pid, signal.SIGSTOP)  # it holds its claims and does nothing more
    second = launcher.start(*EXTRACT, cwd=workplace)
    time.sleep(undisturbed[1])
    assert second.runs  # waits for what the first has claimed
    first.kill()
    assert second.wait().code == 0
    whole_and_equal(workplace, undisturbed[0])


def test_files_that_may_not_grow_commit_nothing_by_halves(
    workplace: Path, launcher: Launcher, undisturbed: tuple[dict[str, str], float]
) -> None:
    ran = launcher.run(*EXTRACT, cwd=workplace, file_limit=60_000)  # maps are larger, tokens are not
    assert ran.code == 3
    assert "cannot write" in ran.error["error"]
    assert ran.error["next"] == "Run the same command again; it continues where it stopped."
    assert [p for p in problems_of(workplace / CACHE, "full") if p.is_damage] == []
    writer = open_writer(workplace / CACHE)
    assert len(writer.pending("clip")) == 12
    ran = launcher.run(*EXTRACT, cwd=workplace)
    assert ran.code == 0
    whole_and_equal(workplace, undisturbed[0])


def fill(ballast: Path) -> None:
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        file.write(bytes(1 << 20))


def test_a_full_disk(workplace: Path, tmp_path_factory: pytest.TempPathFactory, launcher: Launcher) -> None:
    disk = tmp_path_factory.mktemp("disk")
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "none", disk]).returncode:
        pytest.skip("mounting a small disk takes root")
    try:
        # Room for everything is announced, then someone else fills the disk.
        ran = launcher.run(*EXTRACT, "--cache", disk / "cache", cwd=workplace)
        assert ran.code == 1
        assert "needs 1.2" in ran.error["error"]
        assert "--cache" in ran.error["next"]
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        child = launcher.start(*EXTRACT, "--cache", disk / "cache", cwd=workplace)
        while not (disk / "cache/markers/clip/000001.json").exists():
            assert child.runs
            time.sleep(0.002)
        ballast = disk / "ballast"
        ballast.write_bytes(b"")
        while shutil.disk_usage(disk).free:
            fill(ballast)
        ran = child.wait()
        assert ran.code == 3, ran.err
        assert "No space left on device" in ran.error["error"]
        assert [p for p in problems_of(disk / "cache", "full") if p.is_damage] == []
        ballast.unlink()
        assert launcher.run(*EXTRACT, "--cache", disk / "cache", cwd=workplace).code == 0
        assert problems_of(disk / "cache", "full") == []
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("place", ["small.yaml/cache", "rs-cache-data/datasets/shapes/train.json"])
def test_a_place_that_cannot_hold_a_cache(place: str, workplace: Path) -> None:
    ran = rs_cache(*EXTRACT, "--cache", place)
    assert ran.code == 1
    assert str(workplace / place) in ran.error["error"]
    assert "--cache" in ran.error["next"]


def test_interrupted_by_ctrl_c(workplace: Path, launcher: Launcher) -> None:
    child = launcher.start(*EXTRACT, cwd=workplace)
    while not (workplace / CACHE / "markers/clip/000001.json").exists():
        assert child.runs
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGINT)
    ran = child.wait()
    assert ran.code == 130
    assert "the same command continues" in ran.err
    assert "Traceback" not in ran.err
    committed = json.loads(rs_cache("status", CACHE, "--json").out)["parts"]["clip"]["committed"]
    assert 2 <= committed < 12
    assert rs_cache("verify", CACHE, "--full").code == 3
