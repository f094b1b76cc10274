"""From the rows of one partition to stored objects and their marker; taking a commit back."""

import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from regionspot_cache.errors import DamageError, IdentityError, InputError
from regionspot_cache.store.encode import empty_block, encode_shard
from regionspot_cache.store.entries import ObjectEntry, object_entry
from regionspot_cache.store.identity import CacheRecord, PartRecord
from regionspot_cache.store.layout import (
    STATUS_OK,
    STATUS_REASONS,
    PartSpec,
    PlanShape,
    StackedArray,
    part_arrays,
)
from regionspot_cache.store.manifest import MANIFEST_KEY, Manifest, Marker, marker_key
from regionspot_cache.store.objects import Objects, Stage
from regionspot_cache.store.plan import PartitionPlan
from regionspot_cache.store.shards import chunk_sums


def encoded_objects(
    spec: PartSpec, shape: PlanShape, partition: int, rows: Mapping[str, np.ndarray]
) -> Iterator[tuple[StackedArray, memoryview | None]]:
    """(array, bytes) of every array's stored object, one at a time; None for one that would hold nothing."""
    for name, array in part_arrays(spec, shape).items():
        block = rows[name][None]
        if block.shape[1] < array.length:
            block = empty_block(array)
            block[0, : len(rows[name])] = rows[name]
        yield array, encode_shard(array, block)


def build_marker(
    part: PartRecord,
    partition: PartitionPlan,
    status: np.ndarray,
    objects: Mapping[str, ObjectEntry],
    failures: Sequence[Mapping[str, Any]],
    timings: Mapping[str, float],
) -> Marker:
    """The marker of a partition whose objects are about to be published. Raises InputError."""
    failed = tuple((int(slot), int(status[slot])) for slot in np.flatnonzero(status != STATUS_OK))
    if len(failures) != len(failed):
        raise InputError(
            f"{len(failures)} failures listed for partition {partition.index}",
            f"{len(failed)}, one for each image whose status is not ok",
            "report this as a bug",
        )
    return Marker(
        part=part.spec.name,
        partition=partition.index,
        part_digest=part.digest,
        objects=objects,
        counts=dict(Counter(STATUS_REASONS[int(code)] for code in status)),
        failed=failed,
        failures=tuple(dict(failure) for failure in failures),
        timings={name: float(seconds) for name, seconds in timings.items()},
        host=socket.gethostname(),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def default_failures(partition: PartitionPlan, status: np.ndarray) -> list[dict[str, Any]]:
    """One {"image_id", "file_name", "reason"} for each image whose status is not ok."""
    return [
        {
            "image_id": partition.image_ids[slot],
            "file_name": partition.file_names[slot],
            "reason": STATUS_REASONS[int(status[slot])],
        }
        for slot in np.flatnonzero(status != STATUS_OK)
    ]


def require_current_part(objects: Objects, part: PartRecord) -> None:
    """Refuse to write into a part that was rebuilt or planned anew meanwhile. Raises IdentityError."""
    record = PartRecord.read(objects, part.spec.name)
    if record is None or record.digest != part.digest:
        raise IdentityError(
            f"part {part.spec.name} of {objects.url} was rebuilt by another run",
            "the part that this run started with",
            "run rs-cache extract again; partitions that are already committed are kept",
        )


def put_objects(
    stage: Stage, encoded: Iterator[tuple[StackedArray, memoryview | None]], partition: int
) -> tuple[dict[str, ObjectEntry], list[str]]:
    """Stage every object; returns their entries by key and the keys that must not exist."""
    entries, empty = {}, []
    for array, data in encoded:
        key = array.key(partition)
        if data is None:
            empty.append(key)
            continue
        stage.put(key, data)
        entries[key] = object_entry(data, chunk_sums(array, data))
    return entries, empty


def withdraw(objects: Objects, record: CacheRecord, part: str, partition: int) -> None:
    """Make a partition uncommitted: take its part out of the manifest, then remove its marker."""
    with objects.exclusive("manifest") as stage:
        unseal(objects, stage, record, part)
        stage.delete(marker_key(part, partition))


def unseal(objects: Objects, stage: Stage, record: CacheRecord, part: str) -> None:
    """Take one part out of the manifest. A damaged one or one of another plan is emptied."""
    empty = Manifest(plan_digest=record.plan_digest, parts={})
    try:
        found = Manifest.read(objects, record.shape)
    except DamageError:
        found = None
        stage.put(MANIFEST_KEY, empty.to_bytes())
    if found is not None and found.plan_digest != record.plan_digest:
        stage.put(MANIFEST_KEY, empty.to_bytes())
    elif found is not None and part in found.parts:
        kept = {name: sealed for name, sealed in found.parts.items() if name != part}
        stage.put(MANIFEST_KEY, replace(empty, parts=kept).to_bytes())
    stage.publish()
