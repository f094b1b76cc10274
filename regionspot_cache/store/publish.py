"""From the rows of one partition to stored objects and their marker; taking a commit back."""

import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from regionspot_cache.errors import DamageError, IdentityError, InputError
from regionspot_cache.store.encode import empty_block, encode_shard
from regionspot_cache.store.identity import HalfRecord, object_entry
from regionspot_cache.store.layout import (
    STATUS_OK,
    STATUS_REASONS,
    HalfSpec,
    PlanShape,
    half_arrays,
)
from regionspot_cache.store.manifest import MANIFEST_KEY, Manifest, Marker, marker_key
from regionspot_cache.store.objects import Objects, Stage
from regionspot_cache.store.plan import PartitionPlan


def encoded_objects(
    spec: HalfSpec, shape: PlanShape, partition: int, rows: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, memoryview | None]]:
    """(key, bytes) of every array's stored object, one at a time; None for one that would hold nothing."""
    for name, array in half_arrays(spec, shape).items():
        block = rows[name][None]
        if block.shape[1] < array.length:
            block = empty_block(array)
            block[0, : len(rows[name])] = rows[name]
        yield array.key(partition), encode_shard(array, block)


def build_marker(
    spec: HalfSpec,
    partition: PartitionPlan,
    status: np.ndarray,
    objects: Mapping[str, Mapping[str, Any]],
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
        half=spec.name,
        partition=partition.index,
        half_digest=spec.digest,
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


def require_current_half(objects: Objects, spec: HalfSpec) -> None:
    """Refuse to write into a half that was rebuilt for another backbone meanwhile. Raises IdentityError."""
    record = HalfRecord.read(objects, spec.name)
    if record is None or record.spec.digest != spec.digest:
        raise IdentityError(
            f"the {spec.name} half of {objects.url} was rebuilt by another run",
            "the half that this run started with",
            "run rs-cache extract again; partitions that are already committed are kept",
        )


def put_objects(
    stage: Stage, encoded: Iterator[tuple[str, memoryview | None]]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Stage every object; returns their checksums by key and the keys that must not exist."""
    entries, empty = {}, []
    for key, data in encoded:
        if data is None:
            empty.append(key)
            continue
        stage.put(key, data)
        entries[key] = object_entry(data)
    return entries, empty


def withdraw(objects: Objects, cache_digest: str, half: str, partition: int) -> None:
    """Make a partition uncommitted: take its half out of the manifest, then remove its marker."""
    with objects.exclusive("manifest") as stage:
        unseal(objects, stage, cache_digest, half)
        stage.delete(marker_key(half, partition))


def unseal(objects: Objects, stage: Stage, cache_digest: str, half: str) -> None:
    """Take one half out of the manifest. A damaged manifest is replaced by an empty one."""
    try:
        manifest = Manifest.read(objects)
    except DamageError:
        manifest = Manifest(cache_digest=cache_digest, halves={})
        stage.put(MANIFEST_KEY, manifest.to_bytes())
    if manifest is not None and half in manifest.halves:
        kept = {name: sealed for name, sealed in manifest.halves.items() if name != half}
        stage.put(MANIFEST_KEY, Manifest(cache_digest=cache_digest, halves=kept).to_bytes())
    stage.publish()
