"""Killed writers, two writers at once, full disks, folders that cannot be written."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.errors import RegionSpotError
from regionspot_cache.store import create_cache, open_cache, open_writer, verify
from tests.store import fake_extractor
from tests.store.small_world import clip_part, features, file_hashes, make_dataset, sam_part

KILLS = 24


@pytest.fixture(scope="module")
def children() -> ForkServerContext:
    """Starts children from a clean process that has everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.store.fake_extractor"])
    return context


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, children: ForkServerContext) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "cache"
    child = children.Process(target=fake_extractor.run, args=(path,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    return path


def contents(path: Path) -> dict[str, str]:
    """Hashes of all files; of markers and the manifest, what does not depend on the host and the time."""
    hashes = {name: value for name, value in file_hashes(path).items() if name != "manifest.json"}
    for name in hashes:
        if name.startswith("markers/"):
            marker = json.loads((path / name).read_text())
            hashes[name] = str(
                [marker[key] for key in ("objects", "counts", "failed", "failures", "part_digest")]
            )
    return hashes


def kill_after(process: multiprocessing.Process, seconds: float) -> bool:
    """SIGKILL unless it ended before; True when it was killed."""
    process.join(seconds)
    killed = process.exitcode is None
    process.kill()
    process.join()
    return killed


def test_kill_at_any_moment(tmp_path: Path, children: ForkServerContext, undisturbed: Path) -> None:
    path, rng, kills = tmp_path / "cache", random.Random(0), 0
    while kills < KILLS:
        child = children.Process(target=fake_extractor.run, args=(path,))
        child.start()
        if kill_after(child, rng.uniform(0.01, 0.35)):
            kills += 1
        else:
            assert child.exitcode == 0
            assert verify(path, "full") == []
            shutil.rmtree(path)
    fake_extractor.run(path)
    assert verify(path, "full") == []
    assert contents(path) == contents(undisturbed)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "cache"
    fake_extractor.run_small(path)
    return path


def die_everywhere(
    children: ForkServerContext, work, start: Path | None, folder: Path, *, every: int = 1
) -> Iterator[Path]:
    """For each n, a cache whose `work` was killed just before its n-th change to the file system.

    Only `every` so many are tried unless RS_SLOW is set.
    """
    for step in range(1, 1000, 1 if os.environ.get("RS_SLOW") else every):
        path = folder / str(step)
        if start:
            shutil.copytree(start, path)
        child = children.Process(target=fake_extractor.dying, args=(work, path, step))
        child.start()
        child.join(60)
        if child.exitcode == 0:
            assert step > 20
            return
        assert child.exitcode == -signal.SIGKILL
        if (path / "cache.json").exists():
            # Whatever was cut off is unfinished, never damaged.
            assert [problem for problem in verify(path, "full") if problem.is_damage] == [], step
        yield path
        shutil.rmtree(path)


def test_kill_before_every_change_of_a_commit(
    tmp_path: Path, children: ForkServerContext, small: Path
) -> None:
    start = tmp_path / "start"
    shutil.copytree(small, start)
    open_writer(start).discard("clip", 1)
    for path in die_everywhere(children, fake_extractor.run_small, start, tmp_path):
        fake_extractor.run_small(path)
        open_writer(path).collect_garbage()
        assert verify(path, "full") == []
        assert contents(path) == contents(small)


def test_kill_before_every_change_of_planning(tmp_path: Path, children: ForkServerContext) -> None:
    create_cache(tmp_path / "whole", make_dataset(4), partition_size=2, parts=[sam_part(), clip_part()])
    for path in die_everywhere(children, fake_extractor.plan_small, None, tmp_path, every=29):
        fake_extractor.plan_small(path)
        assert contents(path) == contents(tmp_path / "whole")


def test_kill_before_every_change_of_a_retry(
    tmp_path: Path, children: ForkServerContext, small: Path
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(small, whole)
    fake_extractor.retry(whole)
    assert open_cache(whole).counts == {"sam": {"ok": 4}, "clip": {"ok": 4}}
    for path in die_everywhere(children, fake_extractor.retry, small, tmp_path, every=7):
        fake_extractor.run_small(path)
        fake_extractor.retry(path)
        open_writer(path).collect_garbage()
        assert verify(path, "full") == []
        assert contents(path) == contents(whole)


def test_kill_before_every_change_of_a_rebuild(
    tmp_path: Path, children: ForkServerContext, small: Path
) -> None:
    others = ("sam/", "markers/sam/", "plan/", "cache.json", "parts/sam.json")
    kept = {name: value for name, value in file_hashes(small).items() if name.startswith(others)}
    for path in die_everywhere(children, fake_extractor.rebuild, small, tmp_path, every=7):
        fake_extractor.rebuild(path)
        fake_extractor.fill(open_writer(path))
        open_writer(path).seal()
        assert verify(path, "full") == []
        assert {name: value for name, value in file_hashes(path).items() if name.startswith(others)} == kept


def test_two_writers_on_one_cache_never_mix(tmp_path: Path, children: ForkServerContext) -> None:
    """The two compute different features, as two GPUs may; each partition must be all of one writer."""
    rng = random.Random(2)
    for round_ in range(4):
        path = tmp_path / str(round_)
        pair = [
            children.Process(target=fake_extractor.run, args=(path, shift, bool(shift) and round_ % 2 == 0))
            for shift in (0.0, 0.5)
        ]
        for child in pair:
            child.start()
        if round_ == 3:
            kill_after(pair[0], rng.uniform(0.02, 0.2))
        for child in pair:
            child.join(60)
        killed = {-9, 0} if round_ == 3 else {0}  # on a fast machine the first may be done before the kill
        assert pair[0].exitcode in killed
        assert pair[1].exitcode == 0
        assert verify(path, "full") == []
        assert origins(path) <= {0.0, 0.5}


def origins(path: Path) -> set[float]:
    """The shifts that explain whole partitions; NaN for one that neither explains."""
    cache, writer, found = open_cache(path), open_writer(path), set()
    for partition in range(cache.num_partitions):
        plan = cache.partition(partition)
        wanted = {part: features(part, plan) for part in ("clip", "sam")}
        for part, names in (("clip", ["map"]), ("sam", ["transformer", "prompt"])):
            rows = writer.read_partition(part, partition)
            good = {
                shift for shift in (0.0, 0.5) if all(_explains(rows, wanted[part], n, shift) for n in names)
            }
            found |= good or {float("nan")}
    return found


def _explains(rows: dict, wanted: dict, name: str, shift: float) -> bool:
    values = rows[name].astype(np.float32) * rows[f"{name}_scale"].astype(np.float32)[..., None]
    error = np.abs(values - wanted[name] - shift)[~np.isnan(rows[f"{name}_scale"])]
    return not error.size or float(error.max()) < 0.05


# Disks ----------------------------------------------------------------------------------------------------


def failure(children: ForkServerContext, path: Path, work, limit: int | None = None) -> tuple[str, str, str]:
    queue = children.SimpleQueue()
    child = children.Process(target=fake_extractor.report_error, args=(path, work, limit, queue))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    error = queue.get()
    assert error is not None
    return error


def test_a_file_that_cannot_grow_commits_nothing(
    tmp_path: Path, children: ForkServerContext, undisturbed: Path
) -> None:
    path = tmp_path / "cache"
    create_cache(path, make_dataset(30), partition_size=2, parts=[sam_part(), clip_part()])
    found, expected, remedy = failure(children, path, fake_extractor.run, limit=170)
    assert "clip/map" in found or "markers/clip" in found
    assert "File too large" in found
    assert "room for" in expected
    assert "run the same command again" in remedy
    assert [problem for problem in verify(path, "full") if problem.is_damage] == []
    assert open_writer(path).pending("clip") == list(range(15))
    fake_extractor.run(path)
    assert verify(path, "full") == []
    assert contents(path) == contents(undisturbed)


FILL_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size=200k none "$1"
"$2" -c '
import sys
from pathlib import Path
from regionspot_cache.errors import RegionSpotError
from regionspot_cache.store import open_writer, verify
from tests.store import fake_extractor
disk = Path(sys.argv[1])
junk = disk / "junk"
junk.write_bytes(bytes(60_000))
try:
    fake_extractor.run(disk / "cache")
except RegionSpotError as error:
    print(error)
assert not [problem for problem in verify(disk / "cache", "full") if problem.is_damage]
writer = open_writer(disk / "cache")
print("pending", len(writer.pending("sam")) + len(writer.pending("clip")))
' "$1"
"""


def test_a_full_disk_commits_nothing_by_halves(tmp_path: Path) -> None:
    command = ["unshare", "-rm", "bash", "-c", FILL_A_SMALL_DISK, "bash", str(tmp_path), sys.executable]
    if (
        shutil.which("unshare") is None
        or subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(tmp_path)],
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("this user may not mount a file system")
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": "."}
    )
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout
    assert "free some space or choose another --cache, then run the same command again" in done.stdout
    assert 0 < int(done.stdout.split()[-1]) < 30


def plan_as_nobody(path: Path) -> None:
    if os.getuid() == 0:
        os.setuid(65534)
    fake_extractor.run(path / "cache")


def test_a_folder_that_cannot_be_written(tmp_path: Path, children: ForkServerContext) -> None:
    tmp_path.chmod(0o555)
    found, expected, remedy = failure(children, tmp_path, plan_as_nobody)
    assert found.startswith("cannot write")
    assert "Permission denied" in found
    assert "may write" in expected
    assert "choose another --cache" in remedy


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(RegionSpotError, match="cannot write"):
        create_cache(tmp_path / "cache", make_dataset(), parts=[sam_part()])


def test_litter_is_swept_but_not_what_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    writer = create_cache(path, make_dataset(), partition_size=4, parts=[sam_part()])
    old = path / "staging" / "sam-000001"
    old.mkdir(parents=True)
    (old / "000000").write_bytes(b"litter")
    (path / "staging" / "sam-000001.lock").touch()
    with writer.objects.exclusive("sam-000002") as stage:
        stage.put("sam/transformer/c.2.0.0", b"in use")
        assert writer.collect_garbage() == 2
        stage.publish()
    assert (path / "sam/transformer/c.2.0.0").read_bytes() == b"in use"
    assert list((path / "staging").iterdir()) == []


def test_locks_exclude(tmp_path: Path, children: ForkServerContext) -> None:
    writer = create_cache(tmp_path / "c", make_dataset(), partition_size=4, parts=[sam_part(), clip_part()])
    child = children.Process(target=fake_extractor.fill, args=(writer,))
    with writer.objects.exclusive("clip-000005"):
        child.start()
        while writer.pending("clip") != [5]:
            assert child.is_alive()
            time.sleep(0.01)
        time.sleep(0.3)
        assert writer.pending("clip") == [5]  # the child waits for it
        assert len(writer.pending("sam")) == 6
    child.join()
    assert child.exitcode == 0
    assert writer.pending("clip") == writer.pending("sam") == []
