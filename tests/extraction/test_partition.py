"""Partitions in turn: one is committed while the next is encoded, under its claim."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Condition, Event
from types import SimpleNamespace
from typing import Any

import pytest

from regionspot_cache.extraction import partition
from regionspot_cache.extraction.partition import PartitionReport, extract_partition, extract_partitions
from regionspot_cache.store import open_writer
from tests.running import rs_cache

CACHE = Path("rs-cache-data/caches/shapes-train-small")


def test_one_is_committed_while_the_next_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = [Event() for _ in range(4)]

    def encode(job: Any, p: int, on_images: Any) -> Callable[[], PartitionReport]:
        begun[p].set()
        if p == 1:
            raise ZeroDivisionError

        def commit() -> PartitionReport:
            assert p == 3 or begun[p + 1].wait(10)
            return PartitionReport(partition=p)

        return commit

    monkeypatch.setattr(partition, "_encode_partition", encode)
    job: Any = None
    for p, result in extract_partitions(job, range(4)):
        if p == 1:
            with pytest.raises(ZeroDivisionError):
                result()
        else:
            assert result().partition == p


class Watched:
    """Stands for the cache and the networks: who encodes and who commits, at every moment."""

    parts = ("clip",)
    cache = ""

    def __init__(self, partitions: int) -> None:
        self.partitions, self.begun, self.changed = partitions, 0, Condition()
        self.in_memory: set[int] = set()
        self.encoding = self.most_encoding = self.most_in_memory = 0

    def partition(self, p: int) -> Any:
        return SimpleNamespace(index=p, num_images=1)

    def marker(self, part: str, p: int) -> None:
        return None

    def claim(self, p: int) -> Any:
        return nullcontext()

    def encode(self, _job: Any, _writer: Any, planned: Any, *_: Any) -> Any:
        with self.changed:
            self.encoding += 1
            self.begun += 1
            self.in_memory.add(planned.index)
            self.most_encoding = max(self.most_encoding, self.encoding)
            self.most_in_memory = max(self.most_in_memory, len(self.in_memory))
            self.changed.notify_all()
        time.sleep(0.01)  # for others to come in
        self.encoding -= 1
        return SimpleNamespace(planned=planned, failures={})

    def commit(self, _writer: Any, _part: str, features: Any, *_: Any) -> None:
        """Ends once another partition is encoded, if there is one left."""
        with self.changed:
            last = self.begun == self.partitions
            assert last or self.changed.wait_for(lambda: len(self.in_memory) > 1, 10)
            self.changed.wait(0.01)
            self.in_memory.remove(features.planned.index)
        if features.planned.index == 2:
            raise OSError("the disk is full")


def test_of_the_threads_of_a_worker_one_encodes_while_another_commits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched: Any = Watched(6)
    monkeypatch.setattr(partition, "open_writer", lambda _: watched)
    monkeypatch.setattr(partition, "_encode", watched.encode)
    monkeypatch.setattr(partition, "_commit", watched.commit)
    with ThreadPoolExecutor(4) as worker:
        ended = [worker.submit(extract_partition, watched, p) for p in range(6)]
        errors = [future.exception() for future in ended]
    assert [type(error) for error in errors] == [type(None)] * 2 + [OSError] + [type(None)] * 3
    assert watched.most_encoding == 1
    assert watched.most_in_memory == partition.AT_ONCE


def test_the_claim_is_held_until_the_commit_is_done(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = partition._commit, []

    def commit(writer: Any, part: str, features: Any, *others: Any) -> None:
        p = features.planned.index
        with pytest.raises(BlockingIOError):
            open_writer(CACHE).claim(p).__enter__()
        real(writer, part, features, *others)
        with pytest.raises(BlockingIOError):
            open_writer(CACHE).claim(p).__enter__()
        seen.append((p, part))

    monkeypatch.setattr(partition, "_commit", commit)
    ran = rs_cache("extract", "--backbone", "small.yaml", "--limit", 6, "--set", "partition_size=2")
    assert ran.code == 0, ran.err
    assert seen == [(p, part) for p in range(3) for part in ("sam", "clip")]
    for p in range(3):
        with open_writer(CACHE).claim(p):
            pass
