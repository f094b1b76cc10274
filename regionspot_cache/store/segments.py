"""Which segments a cache has, and which of their images it has given up: segments.json.

A cache is planned once. What an update adds is a segment of its own, a whole cache in updates/NAME, and what
it removes is listed here; nothing that is sealed is rewritten. Without this record the cache is its one
segment. While an update is under way update.json names its segment, and readers are refused.
"""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, StringConstraints

from regionspot_cache.datasets.source import DatasetSource
from regionspot_cache.store.objects import Objects, open_objects
from regionspot_cache.store.records import Sha256, damage, read_record

SEGMENTS_KEY, UPDATE_KEY, UPDATES = "segments.json", "update.json", "updates"
SegmentName = Annotated[str, StringConstraints(pattern=r"^(updates/[0-9a-f]{16})?$")]


@dataclass(frozen=True, kw_only=True)
class SegmentEntry:
    """One segment: its folder in the cache, "" for the first, and `CacheRecord.plan_digest`.

    `removed` is base64 of the bits, little-endian, of the positions that were given up; "" for none.
    """

    name: SegmentName
    plan_digest: Sha256
    removed: str = ""

    def removed_mask(self, count: int) -> np.ndarray:
        """bool [count]. Raises DamageError."""
        if not self.removed:
            return np.zeros(count, bool)
        try:
            bits = np.frombuffer(base64.b64decode(self.removed, validate=True), np.uint8)
        except ValueError:
            bits = np.zeros(0, np.uint8)
        if len(bits) != -(-count // 8):
            raise damage(
                f"{SEGMENTS_KEY} has {len(bits)} bytes of removed images of segment {self.name or 'first'}",
                f"{-(-count // 8)} bytes, one bit for each of its {count} images",
            )
        return np.unpackbits(bits, count=count, bitorder="little").astype(bool)


def packed(removed: np.ndarray) -> str:
    """The text of `SegmentEntry.removed` of a mask bool [M]."""
    return (
        base64.b64encode(np.packbits(removed, bitorder="little").tobytes()).decode() if removed.any() else ""
    )


def _in_order(segments: tuple[SegmentEntry, ...]) -> tuple[SegmentEntry, ...]:
    names = [entry.name for entry in segments]
    if names[:1] != [""] or len(set(names)) < len(names):
        raise ValueError(f"segments {names}: not the first one and then others")
    return segments


@dataclass(frozen=True, kw_only=True)
class Segments:
    """segments.json, replaced atomically by every update: all segments, and the latest annotations."""

    segments: Annotated[tuple[SegmentEntry, ...], AfterValidator(_in_order)]
    source: DatasetSource | None = None

    @classmethod
    def read(cls, objects: Objects) -> "Segments | None":
        """Read it; None for a cache that was never updated. Raises DamageError."""
        return read_record(cls, objects, SEGMENTS_KEY)


@dataclass(frozen=True, kw_only=True)
class UpdateRecord:
    """update.json: the segment that is being made."""

    name: SegmentName

    @classmethod
    def read(cls, objects: Objects) -> "UpdateRecord | None":
        """Read it; None while no update is under way. Raises DamageError."""
        return read_record(cls, objects, UPDATE_KEY)


def within(url: str, name: str) -> str:
    """Place of a segment of the cache at `url`."""
    return f"{url.rstrip('/')}/{name}" if name else url


def segment_places(path: str | Path) -> list[str]:
    """Where the segments of a cache lie; that of an unfinished update is none of them."""
    objects = open_objects(path)
    known = Segments.read(objects)
    names = [entry.name for entry in known.segments] if known else [""]
    return [within(objects.url, name) for name in names]
