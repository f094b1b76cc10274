"""Commit markers (one per part and partition) and the sealed manifest, the only way in for readers.

They form a chain: the manifest has the digest of every marker, a marker that of the part's record, which has
that of the plan. What belongs to another plan, part or partition is never taken for one's own.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from regionspot_cache.errors import DamageError
from regionspot_cache.store.identity import PartRecord
from regionspot_cache.store.layout import (
    STATUS_ABSENT,
    STATUS_CODES,
    STATUS_OK,
    STATUS_REASONS,
    PartName,
    PlanShape,
    Size,
    StackedArray,
    part_arrays,
)
from regionspot_cache.store.objects import Objects
from regionspot_cache.store.records import Count, Sha256, damage, digest, from_record, parse, read_record
from regionspot_cache.store.shards import ObjectEntry

MANIFEST_KEY = "manifest.json"
_READERS = 16


def marker_key(part: str, partition: int) -> str:
    """Key of the marker of one partition of a part."""
    return f"markers/{part}/{partition:06d}.json"


def _is_reason(name: str) -> str:
    if name not in STATUS_CODES:
        raise ValueError(f"{name!r} is none of {', '.join(STATUS_CODES)}")
    return name


def _is_failure(code: int) -> int:
    if code not in STATUS_REASONS or code in (STATUS_ABSENT, STATUS_OK):
        raise ValueError(f"{code} is the code of no failure")
    return code


def _is_described(failure: Mapping[str, Any]) -> Mapping[str, Any]:
    if not {"image_id", "file_name", "reason"} <= failure.keys():
        raise ValueError("lacks image_id, file_name or reason")
    return failure


Reason = Annotated[str, AfterValidator(_is_reason)]
FailureCode = Annotated[int, AfterValidator(_is_failure)]
Failed = tuple[tuple[Count, FailureCode], ...]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class Marker:
    """Proof that one partition of a part is complete.

    Attributes:
        part_digest: `PartRecord.digest` of the part it belongs to, and so of the plan.
        objects: every stored object of the partition by key.
        counts: number of images by outcome ("ok" or a failure reason).
        failed: (slot, status code) of every image without features.
        failures: {"image_id", "file_name", "reason", ...} of the same images.
        timings: seconds by step (read, decode, sam, clip, write, ...).
        host, time: who wrote it and when (ISO 8601, UTC).
    """

    part: PartName
    partition: Size
    part_digest: Sha256
    objects: Mapping[str, ObjectEntry]
    counts: Mapping[Reason, Count]
    failed: Failed
    failures: tuple[Annotated[Mapping[str, str | int], AfterValidator(_is_described)], ...]
    timings: Mapping[str, Seconds]
    host: str
    time: str

    @classmethod
    def from_bytes(cls, data: bytes, key: str, shape: PlanShape) -> "Marker":
        """The marker that `to_record` wrote. Raises DamageError."""
        marker = parse(cls, from_record(data, key), key)
        images = shape.partition_images(marker.partition) if marker.partition < shape.num_partitions else 0
        _require_positions(marker.failed, images, key)
        if len(marker.failures) != len(marker.failed):
            found = f"{key} describes {len(marker.failures)} failures and lists {len(marker.failed)}"
            raise damage(found, "one description of each")
        return marker

    def is_of(self, part: PartRecord, partition: int) -> bool:
        """Whether it proves this partition of this part of this plan."""
        wanted = (part.spec.name, partition, part.digest)
        return (self.part, self.partition, self.part_digest) == wanted

    @property
    def stored_bytes(self) -> int:
        """Bytes of all its objects."""
        return sum(entry.bytes for entry in self.objects.values())


def _require_positions(failed: Failed, images: int, key: str) -> None:
    positions = [position for position, _ in failed]
    if positions != sorted(set(positions)) or (positions and positions[-1] >= images):
        found = f"{key} lists failed images {positions[:5]} ..."
        raise damage(found, f"each once, in order, below {images}")


def read_marker(
    objects: Objects, part: PartRecord, shape: PlanShape, partition: int
) -> tuple[Marker, str] | None:
    """The marker of a partition and its digest; None when it is absent, damaged or of something else.

    A marker that cannot be trusted counts as absent: the partition is then simply done again.
    """
    key = marker_key(part.spec.name, partition)
    try:
        data = objects.read(key)
        marker = Marker.from_bytes(data, key, shape)
    except (FileNotFoundError, DamageError):
        return None
    return (marker, digest(data)) if marker.is_of(part, partition) else None


def read_markers(
    objects: Objects, part: PartRecord, shape: PlanShape, partitions: Iterable[int]
) -> dict[int, tuple[Marker, str]]:
    """Valid markers by partition; several are read at a time."""
    name = part.spec.name
    present = {key for key, _ in objects.list(f"markers/{name}")}
    wanted = [partition for partition in partitions if marker_key(name, partition) in present]
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda partition: read_marker(objects, part, shape, partition), wanted)
        return {partition: item for partition, item in zip(wanted, found, strict=True) if item}


@dataclass(frozen=True, kw_only=True)
class SealedPart:
    """A complete part as the manifest records it.

    `markers` has the SHA-256 of each partition's marker; `failed` (position p * S + slot, status code) of
    every image without features.
    """

    digest: Sha256
    markers: tuple[Sha256, ...]
    failed: Failed

    @classmethod
    def of(cls, part: PartRecord, size: int, markers: Mapping[int, tuple[str, Failed]]) -> "SealedPart":
        """A part by the digest and the failed slots of the marker of every partition."""
        found = sorted(markers.items())
        return cls(
            digest=part.digest,
            markers=tuple(marker for _, (marker, _) in found),
            failed=tuple((p * size + slot, code) for p, (_, failed) in found for slot, code in failed),
        )

    def counts(self, num_images: int) -> Counter[str]:
        """Images by outcome."""
        counts = Counter(STATUS_REASONS[code] for _, code in self.failed)
        counts[STATUS_REASONS[STATUS_OK]] = num_images - len(self.failed)
        return counts


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """manifest.json: the sealed state of a cache, every complete part; replaced atomically."""

    plan_digest: Sha256
    parts: Mapping[PartName, SealedPart]

    @classmethod
    def read(cls, objects: Objects, shape: PlanShape) -> "Manifest | None":
        """Read it; None when nothing was sealed yet. Raises DamageError."""
        manifest = read_record(cls, objects, MANIFEST_KEY)
        for part in manifest.parts.values() if manifest else ():
            _require_positions(part.failed, shape.num_images, MANIFEST_KEY)
            if len(part.markers) != shape.num_partitions:
                raise DamageError(
                    f"{MANIFEST_KEY} lists {len(part.markers)} partitions of a part",
                    f"{shape.num_partitions}",
                    "rs-cache extract with the same arguments seals the cache again",
                )
        return manifest


def sealed_sums(
    objects: Objects, part: PartRecord, sealed: SealedPart, shape: PlanShape
) -> Callable[[StackedArray, int], memoryview]:
    """From an array of a sealed part and a partition to the recorded checksums, uint32 [index_entries].

    The marker of a partition is read when one of its objects is first touched; four bytes a record are kept.
    DamageError when it is gone, damaged, not the one that the manifest names, or does not list the object.
    """
    arrays = part_arrays(part.spec, shape).values()

    @cache
    def of_partition(partition: int) -> dict[str, memoryview]:
        key = marker_key(part.spec.name, partition)
        try:
            data = objects.read(key)
        except FileNotFoundError:
            data = b""
        if digest(data) != sealed.markers[partition]:
            raise DamageError(
                f"{key} of {objects.url} is {'not the one that was sealed' if data else 'missing'}",
                "the marker that the manifest names",
                "open the cache again if an extraction changed it meanwhile; else rs-cache verify "
                f"{objects.url} --full names all damage",
            )
        marker = Marker.from_bytes(data, key, shape)
        if not marker.is_of(part, partition):
            raise damage(
                f"{key} is the marker of partition {marker.partition} of another {marker.part} part",
                f"that of partition {partition} of the {part.spec.name} part",
                objects.url,
            )
        keys = {array.path: array.key(partition) for array in arrays}
        return {
            array.path: marker.objects[keys[array.path]].sums(array, keys[array.path])
            for array in arrays
            if keys[array.path] in marker.objects
        }

    def sums(array: StackedArray, partition: int) -> memoryview:
        found = of_partition(partition).get(array.path)
        if found is None:
            what = f"{array.key(partition)} is not listed by the marker of its partition"
            raise damage(what, "an object that was committed", objects.url)
        return found

    return sums
