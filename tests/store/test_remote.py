"""The same protocol on object stores (obstore's own memory and file stores)."""

import pickle
import threading
import time
from pathlib import Path

import numpy as np
import obstore
import pytest
from obstore.store import MemoryStore

from regionspot_cache.errors import IncompleteError, MissingFileError, RegionSpotError
from regionspot_cache.store import CacheWriter, create_cache, open_cache, open_writer, verify
from regionspot_cache.store.objects import open_objects
from regionspot_cache.store.remote import RemoteObjects
from tests.store.small_world import (
    clip_part,
    extract,
    features,
    file_hashes,
    make_cache,
    make_dataset,
    sam_part,
    status_of,
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    (tmp_path / "bucket").mkdir()
    return f"file://{tmp_path}/bucket"


def test_a_remote_cache_is_the_local_one(url: str, tmp_path: Path) -> None:
    make_cache(tmp_path / "local")
    make_cache(url)
    local, remote = file_hashes(tmp_path / "local"), file_hashes(tmp_path / "bucket")
    assert set(local) == set(remote)
    timed = ("markers/", "manifest.json")
    assert {n: h for n, h in local.items() if not n.startswith(timed)} == {
        n: h for n, h in remote.items() if not n.startswith(timed)
    }
    assert verify(url, "full") == []


def test_reading(url: str, tmp_path: Path) -> None:
    make_cache(tmp_path / "local")
    make_cache(url)
    ours, theirs = open_cache(url), open_cache(tmp_path / "local")
    again = pickle.loads(pickle.dumps(ours))  # noqa: S301
    for i in range(ours.num_images):
        for cache in (ours, again):
            for path in ("clip/map", "sam/transformer"):
                np.testing.assert_array_equal(cache.read(path, i), theirs.read(path, i))
        np.testing.assert_array_equal(ours.boxes(i), theirs.boxes(i))
    first, second = (cache.raw_images("clip/map", [5, 3, 4])[0] for cache in (ours, theirs))
    np.testing.assert_array_equal(first, second)


def test_damage_is_found(url: str, tmp_path: Path) -> None:
    make_cache(url)
    file = tmp_path / "bucket/clip/map/c.1.0.0.0"
    data = bytearray(file.read_bytes())
    data[9] ^= 1
    file.write_bytes(data)
    assert {problem.key for problem in verify(url, "full")} == {"clip/map/c.1.0.0.0"}
    with pytest.raises(RegionSpotError, match="crc32c"):
        open_cache(url).read("clip/map", 4)
    file.write_bytes(data[:100])
    with pytest.raises(RegionSpotError, match="clip/map, partition 1"):
        open_cache(url).read("clip/map", 4)


def test_nothing_there(url: str) -> None:
    with pytest.raises(MissingFileError):
        open_cache(url)


@pytest.fixture
def objects() -> RemoteObjects:
    return RemoteObjects(MemoryStore(), "memory://test", lease=60)


def test_put_if_absent_lets_one_win(objects: RemoteObjects) -> None:
    wins = []

    def put(data: bytes) -> None:
        with objects.exclusive(f"writer-{data.decode()}") as stage:
            wins.append(stage.put_if_absent("markers/sam/000000.json", data))

    threads = [threading.Thread(target=put, args=(str(n).encode(),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wins) == [False] * 7 + [True]


def test_the_claim_of_long_work_outlives_its_lease_and_ends_with_its_holder() -> None:
    objects = RemoteObjects(MemoryStore(), "memory://test", lease=0.4)
    with objects.exclusive("work-000000", wait=False, long=True):
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            with pytest.raises(BlockingIOError), objects.exclusive("work-000000", wait=False):
                pass
            time.sleep(0.05)
    with objects.exclusive("work-000000", wait=False):
        pass


def test_a_renewal_under_way_does_not_bring_a_released_claim_back(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = RemoteObjects(MemoryStore(), "memory://test", lease=0.2)
    renewing, put = threading.Event(), obstore.put

    def slow_put(store: MemoryStore, key: str, data: bytes, **options: str) -> object:
        if "mode" not in options:  # a renewal; claims are put only if absent
            renewing.set()
            time.sleep(0.3)
        return put(store, key, data, **options)

    monkeypatch.setattr(obstore, "put", slow_put)
    with objects.exclusive("work-000000", wait=False, long=True):
        assert renewing.wait(60)
    time.sleep(0.4)
    assert list(objects.list("staging")) == []


def test_the_work_on_a_partition_is_claimed_by_one(url: str) -> None:
    writer = create_cache(url, make_dataset(), partition_size=4, parts=[sam_part(), clip_part()])
    with writer.claim(0), writer.claim(1):
        with pytest.raises(BlockingIOError), writer.claim(0):
            pass
        writer.commit("sam", 0, features("sam", writer.partition(0)), status_of(writer.partition(0), {}))
    with writer.claim(0):
        pass


def test_claims_exclude_until_released(objects: RemoteObjects) -> None:
    with objects.exclusive("a"):
        with pytest.raises(BlockingIOError), objects.exclusive("a", wait=False):
            pass
        with objects.exclusive("b", wait=False):
            pass
        assert objects.sweep() == 0
    with objects.exclusive("a", wait=False):
        pass
    assert list(objects.list("staging")) == []


def test_the_claim_of_a_killed_writer_runs_out() -> None:
    objects = RemoteObjects(MemoryStore(), "memory://test", lease=0.05)
    obstore.put(objects._store, "staging/sam-000000.claim", b"killed")
    with objects.exclusive("sam-000000") as stage:
        stage.put("sam/transformer/c.0.0.0", b"data")
        stage.publish()
    assert objects.read("sam/transformer/c.0.0.0") == b"data"


def test_a_writer_that_lost_its_claim_stops(objects: RemoteObjects) -> None:
    with objects.exclusive("sam-000000") as stage:
        stage.put("sam/transformer/c.0.0.0", b"data")
        obstore.put(objects._store, "staging/sam-000000.claim", b"someone else")
        with pytest.raises(IncompleteError, match="claim"):
            stage.publish()
    assert objects.size("sam/transformer/c.0.0.0") is None
    assert objects.read("staging/sam-000000.claim") == b"someone else"


def test_two_remote_writers(url: str) -> None:
    parts = [sam_part(), clip_part()]
    writers = [create_cache(url, make_dataset(), partition_size=4, parts=parts) for _ in range(2)]
    outcomes: list[str] = []

    def fill(writer: CacheWriter) -> None:
        for part in writer.parts:
            for partition in range(writer.num_partitions):
                plan = writer.partition(partition)
                status = np.ones(plan.num_images, np.uint8)
                outcomes.append(writer.commit(part, partition, features(part, plan), status))

    threads = [threading.Thread(target=fill, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["committed"] * 12 + ["lost race"] * 12
    extract(open_writer(url))
    assert verify(url, "full") == []


def test_an_unreachable_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(RegionSpotError, match=r"cannot open nothing://bucket"):
        open_objects("nothing://bucket")
