"""Partitions in turn: one is committed while the next is encoded, under its claim."""

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from regionspot_cache.extraction import partition
from regionspot_cache.extraction.partition import PartitionReport, extract_partitions
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
