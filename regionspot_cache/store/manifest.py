"""Commit markers (one per half and partition) and the sealed manifest, the only way in for readers."""

from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from regionspot_cache.errors import DamageError
from regionspot_cache.store.layout import STATUS_OK, STATUS_REASONS
from regionspot_cache.store.objects import Objects
from regionspot_cache.store.records import digest, from_record, to_record

MANIFEST_KEY = "manifest.json"
_READERS = 16


def marker_key(half: str, partition: int) -> str:
    """Key of the marker of one partition of a half."""
    return f"markers/{half}/{partition:06d}.json"


@dataclass(frozen=True, kw_only=True)
class Marker:
    """Proof that one partition of a half is complete.

    Attributes:
        half, partition: what it is about.
        half_digest: `HalfSpec.digest` of the half it belongs to.
        objects: bytes and SHA-256 by key of every stored object of the partition.
        counts: number of images by outcome ("ok" or a failure reason).
        failed: (slot, status code) of every image without features.
        failures: {"image_id", "file_name", "reason", ...} of the same images.
        timings: seconds by step (read, decode, sam, clip, write, ...).
        host, time: who wrote it and when (ISO 8601, UTC).
    """

    half: str
    partition: int
    half_digest: str
    objects: Mapping[str, Mapping[str, Any]]
    counts: Mapping[str, int]
    failed: tuple[tuple[int, int], ...]
    failures: tuple[Mapping[str, Any], ...]
    timings: Mapping[str, float]
    host: str
    time: str

    def to_bytes(self) -> bytes:
        """The stored bytes."""
        return to_record(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, key: str) -> "Marker":
        """Inverse of `to_bytes`. Raises DamageError."""
        value = from_record(data, key)
        value["failed"] = tuple((slot, code) for slot, code in value["failed"])
        value["failures"] = tuple(value["failures"])
        return cls(**value)


def read_marker(objects: Objects, half: str, half_digest: str, partition: int) -> tuple[Marker, str] | None:
    """The marker of a partition and its digest; None when it is absent, damaged or of another identity.

    A marker that cannot be trusted counts as absent: the partition is then simply done again.
    """
    key = marker_key(half, partition)
    try:
        data = objects.read(key)
        marker = Marker.from_bytes(data, key)
    except (FileNotFoundError, DamageError):
        return None
    same = (marker.half, marker.partition, marker.half_digest) == (half, partition, half_digest)
    return (marker, digest(data)) if same else None


def read_markers(
    objects: Objects, half: str, half_digest: str, partitions: Iterable[int]
) -> dict[int, tuple[Marker, str]]:
    """Valid markers by partition; several are read at a time."""
    present = {key for key, _ in objects.list(f"markers/{half}")}
    wanted = [partition for partition in partitions if marker_key(half, partition) in present]
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda partition: read_marker(objects, half, half_digest, partition), wanted)
        return {partition: item for partition, item in zip(wanted, found, strict=True) if item}


@dataclass(frozen=True, kw_only=True)
class SealedHalf:
    """A complete half as the manifest records it.

    Attributes:
        digest: `HalfSpec.digest`.
        markers: SHA-256 of each partition's marker, in order.
        failed: (position, status code) of every image without features, position = p * S + slot.
    """

    digest: str
    markers: tuple[str, ...]
    failed: tuple[tuple[int, int], ...]

    def counts(self, num_images: int) -> Counter[str]:
        """Images by outcome."""
        counts = Counter(STATUS_REASONS[code] for _, code in self.failed)
        counts[STATUS_REASONS[STATUS_OK]] = num_images - len(self.failed)
        return counts


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """manifest.json: the sealed state of a cache, replaced atomically.

    Attributes:
        cache_digest: SHA-256 of cache.json.
        halves: every complete half.
    """

    cache_digest: str
    halves: Mapping[str, SealedHalf]

    def to_bytes(self) -> bytes:
        """The stored bytes."""
        return to_record(asdict(self))

    @classmethod
    def read(cls, objects: Objects) -> "Manifest | None":
        """Read it; None when nothing was sealed yet. Raises DamageError."""
        try:
            value = from_record(objects.read(MANIFEST_KEY), MANIFEST_KEY)
        except FileNotFoundError:
            return None
        halves = {
            name: SealedHalf(
                digest=half["digest"],
                markers=tuple(half["markers"]),
                failed=tuple((position, code) for position, code in half["failed"]),
            )
            for name, half in value["halves"].items()
        }
        return cls(cache_digest=value["cache_digest"], halves=halves)
