"""What records say of a stored object: its bytes, its SHA-256, and the crc32c of every record in it.

The crc32c values bind an object to its place. Each record of an array is stored with its own crc32c, which a
swapped object has too; the list is in a marker (or in cache.json, for the plan), so whoever reads a record
compares it with what was committed for this very partition, array and slot.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import AfterValidator

from regionspot_cache.store.layout import CRC_BYTES, StackedArray
from regionspot_cache.store.records import Count, Sha256, damage, digest

Sums = Callable[[int], memoryview]
"""From the number of a stored object to the uint32 crc32c of its inner chunks, in the order of its index."""


def _is_list_of_crcs(text: str) -> str:
    if len(base64.b64decode(text, validate=True)) % CRC_BYTES:
        raise ValueError("is no base64 of whole 32-bit values")
    return text


@dataclass(frozen=True, kw_only=True)
class ObjectEntry:
    """A stored object: its size, the SHA-256 of all its bytes, and the crc32c of its records.

    `crc32c` is base64 of little-endian uint32, one for every inner chunk in the order of the index, 0 for one
    that is not stored; empty for objects that are no part of an array.
    """

    bytes: Count
    sha256: Sha256
    crc32c: Annotated[str, AfterValidator(_is_list_of_crcs)] = ""

    def sums(self, array: StackedArray, key: str) -> memoryview:
        """uint32 [index_entries] of an object of `array`. Raises DamageError when it has another number."""
        values = np.frombuffer(base64.b64decode(self.crc32c), "<u4")
        if len(values) != array.index_entries:
            found = f"{len(values)} checksums are recorded for the records of {key}"
            raise damage(found, f"{array.index_entries}")
        return values.astype(np.uint32).data


def object_entry(data: bytes | memoryview, sums: np.ndarray | None = None) -> ObjectEntry:
    """The entry of a stored object; `sums` are uint32, see `ObjectEntry.crc32c`."""
    listed = b"" if sums is None else np.asarray(sums, "<u4").tobytes()
    return ObjectEntry(bytes=len(data), sha256=digest(data), crc32c=base64.b64encode(listed).decode())


def recorded_sums(entries: Mapping[str, ObjectEntry], array: StackedArray) -> Sums:
    """The sums of an array whose objects are all listed in `entries`."""

    def sums(shard: int) -> memoryview:
        key = array.key(shard)
        if key not in entries:
            raise damage(f"no checksums are recorded for {key}", "an object that was committed")
        return entries[key].sums(array, key)

    return sums
