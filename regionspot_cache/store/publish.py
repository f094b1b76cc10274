"""From the features of one partition to stored rows, objects and their marker; taking a commit back."""

import socket
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from regionspot_cache.errors import DamageError, IdentityError, InputError
from regionspot_cache.store.encode import empty_block, encode_shard
from regionspot_cache.store.identity import CacheRecord, PartRecord
from regionspot_cache.store.layout import (
    STAMP,
    STATUS_OK,
    STATUS_REASONS,
    ArraySpec,
    PartSpec,
    StackedArray,
)
from regionspot_cache.store.manifest import MANIFEST_KEY, Manifest, Marker, SealedPart, marker_key
from regionspot_cache.store.objects import Objects, Stage
from regionspot_cache.store.plan import PartitionPlan
from regionspot_cache.store.records import to_record
from regionspot_cache.store.shards import ObjectEntry, chunk_sums, object_entry
from regionspot_cache.store.storage import FILL_VALUES, Stored

Features = np.ndarray | Stored


def stored_rows(
    spec: PartSpec,
    partition: PartitionPlan,
    features: Mapping[str, Features],
    status: np.ndarray,
    files: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Rows of every stored array of a partition of s images and b boxes; the fill value for failed images.

    `features` are float [b, D] (ragged) or [s, N, C] by array name, or the same as `Stored`; `status` uint8
    [s] of `layout.STATUS_CODES`; `files` int64 [s, 3]. InputError for names, shapes or values that do not
    fit.
    """
    known = status.dtype == np.uint8 and status.shape == (partition.num_images,)
    if not known or not np.isin(status, [code for code in STATUS_REASONS if code]).all():
        found = f"status of partition {partition.index}: {status.dtype} {list(status.shape)}"
        raise _bug(found, f"uint8 [{partition.num_images}] with known codes, none of them 0")
    names = sorted(array.name for array in spec.arrays)
    if sorted(features) != names:
        raise _bug(f"features {sorted(features)}", f"{names}")
    ok = status == STATUS_OK
    stamps = np.zeros((len(status), STAMP), np.int64) if files is None else np.asarray(files, np.int64)
    rows = {"status": status, "file": _spread(stamps[ok], ok)}
    for array in spec.arrays:
        rows |= _array_rows(array, features[array.name], row_mask(array.ragged, partition, status))
    return rows


def row_mask(ragged: bool, partition: PartitionPlan, status: np.ndarray) -> np.ndarray:
    """Boolean mask of the rows of images that succeeded: [b] of ragged arrays, [s] of others."""
    ok = status == STATUS_OK
    return np.repeat(ok, np.diff(partition.offsets)) if ragged else ok


def _array_rows(array: ArraySpec, features: Features, ok: np.ndarray) -> dict[str, np.ndarray]:
    given = features if isinstance(features, Stored) else Stored(features)
    item = array.stored[array.name][1] if isinstance(features, Stored) else array.item_shape
    if given.values.shape != (len(ok), *item):
        found = f"{array.name} features of shape {list(given.values.shape)}"
        raise _bug(found, f"{[len(ok), *item]}")
    given = given if ok.all() else given.take(ok)
    if isinstance(features, Stored):
        array.storage.require(array.name, given, (len(given.values), *array.item_shape))
    else:
        given = array.storage.encode(given.values)
    return {
        name: _spread(rows, ok) for name, rows in zip(array.stored, given, strict=False) if rows is not None
    }


def _spread(rows: np.ndarray, ok: np.ndarray) -> np.ndarray:
    """Put the rows of successful images back at their places, the fill value elsewhere."""
    if ok.all():
        return rows
    spread = np.full((len(ok), *rows.shape[1:]), FILL_VALUES[rows.dtype.name], rows.dtype)
    spread[ok] = rows
    return spread


def _bug(found: str, expected: str) -> InputError:
    return InputError(found, expected, "report this as a bug")


def build_marker(
    part: PartRecord,
    partition: PartitionPlan,
    status: np.ndarray,
    objects: Mapping[str, ObjectEntry],
    details: Mapping[int, str],
    timings: Mapping[str, float],
) -> Marker:
    """The marker of a partition whose objects are about to be published."""
    failed = tuple((slot, int(status[slot])) for slot in np.flatnonzero(status != STATUS_OK).tolist())
    failures = [
        {
            "image_id": partition.image_ids[slot],
            "file_name": partition.file_names[slot],
            "reason": STATUS_REASONS[code],
        }
        | ({"detail": details[slot]} if slot in details else {})
        for slot, code in failed
    ]
    return Marker(
        part=part.spec.name,
        partition=partition.index,
        part_digest=part.digest,
        objects=objects,
        counts=dict(Counter(STATUS_REASONS[int(code)] for code in status)),
        failed=failed,
        failures=tuple(failures),
        timings={name: float(seconds) for name, seconds in timings.items()},
        host=socket.gethostname(),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


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
    stage: Stage, arrays: Mapping[str, StackedArray], partition: int, rows: Mapping[str, np.ndarray]
) -> tuple[dict[str, ObjectEntry], list[str]]:
    """Stage every object, one at a time; gives their entries by key, and the keys that would hold nothing."""
    entries, empty = {}, []
    for name, array in arrays.items():
        block, key = rows[name][None], array.key(partition)
        if block.shape[1] < array.length:
            block = empty_block(array)
            block[0, : len(rows[name])] = rows[name]
        data = encode_shard(array, block)
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
    left: dict[str, SealedPart] | None = {}
    try:
        found = Manifest.read(objects, record.shape)
        if found is None or (found.plan_digest == record.plan_digest and part not in found.parts):
            left = None
        elif found.plan_digest == record.plan_digest:
            left = {name: sealed for name, sealed in found.parts.items() if name != part}
    except DamageError:
        pass
    if left is not None:
        stage.put(MANIFEST_KEY, to_record(Manifest(plan_digest=record.plan_digest, parts=left)))
        stage.publish()
