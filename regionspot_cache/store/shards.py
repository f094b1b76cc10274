"""Reading stored arrays without zarr: the index of a stored object is parsed once, then one positioned read
brings one inner chunk, or a run of neighbouring ones, straight into place. Every chunk is compared with the
checksum that is recorded for its place, not only with the one beside it.

What records say of an object (`ObjectEntry`) binds it to its place: each record of an array has beside it its
own crc32c, which a swapped object has too; the list is in a marker (or in cache.json, for the plan), so
whoever reads a record compares it with what was committed for this very partition, array and slot.

Format: zarr v3 "sharding_indexed" codec, index at the end, inner codecs bytes + crc32c
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/).
"""

import base64
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import google_crc32c
import numpy as np
from pydantic import AfterValidator

from regionspot_cache.store.layout import CRC_BYTES, INDEX_ENTRY_BYTES, StackedArray
from regionspot_cache.store.objects import Handle
from regionspot_cache.store.records import Count, Sha256, damage, digest

_NO_CHUNK = np.uint64(2**64 - 1)
_ABSENT, _IMPOSSIBLE = -1, -2  # in place of an offset
_NOT_COMMITTED = "the record is not the one that was committed here"

Check = Literal["first", "always", "never"]
"""When the bytes of a record are compared with its crc32c: by its first reader in a process, or by all."""

Sums = Callable[[int], memoryview]
"""From the number of a stored object to the uint32 crc32c of its inner chunks, in the order of its index."""


_Recorded = tuple[int, bytearray, int]
"""Of an inner chunk: its recorded crc32c, and where is kept whether its bytes were compared with it."""


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


class ChunkError(Exception):
    """An inner chunk that is needed cannot be read. Callers that know the image make it a DamageError."""

    def __init__(self, array: StackedArray, partition: int, chunk: int, detail: str) -> None:
        super().__init__(array, partition, chunk, detail)
        self.array, self.partition, self.chunk, self.detail = array, partition, chunk, detail

    def __str__(self) -> str:
        key = self.array.key(self.partition // self.array.group)
        return f"{self.detail} (array {self.array.path}, partition {self.partition}, object {key})"


def parse_index(array: StackedArray, tail: np.ndarray) -> np.ndarray:
    """Offsets int64 [entries] of the inner chunks of a stored object, negative where there is none.

    `tail` are its last `array.index_bytes` bytes. ValueError when the index does not match its checksum.
    """
    body, stored = tail[:-CRC_BYTES], tail[-CRC_BYTES:]
    if google_crc32c.value(body) != int.from_bytes(stored.tobytes(), "little"):
        raise ValueError("the index does not match its checksum")
    entries = body.view("<u8").reshape(array.index_entries, INDEX_ENTRY_BYTES // 8)  # (offset, bytes)
    offsets = entries[:, 0].astype(np.int64)
    offsets[entries[:, 1] != array.chunk_bytes + CRC_BYTES] = _IMPOSSIBLE
    offsets[entries[:, 0] == _NO_CHUNK] = _ABSENT
    return offsets


def chunk_sums(array: StackedArray, data: memoryview) -> np.ndarray:
    """The crc32c beside every inner chunk of a stored object, uint32 [entries]; 0 where there is none."""
    flat = np.frombuffer(data, np.uint8)
    offsets = parse_index(array, flat[-array.index_bytes :])
    sums = np.zeros(len(offsets), "<u4")
    stored = np.flatnonzero(offsets >= 0)
    places = offsets[stored, None] + array.chunk_bytes + np.arange(CRC_BYTES)
    sums[stored] = flat[places].view("<u4")[:, 0]
    return sums


class StoredArray:
    """Reads rows of one stored array.

    `sums` are the recorded crc32c of every inner chunk, which the one stored beside it must be; `check` says
    when the bytes are compared with it, too.
    """

    def __init__(
        self, open_object: Callable[[str], Handle], array: StackedArray, sums: Sums, *, check: Check = "first"
    ) -> None:
        self.array = array
        self._open = open_object
        self._sums = sums
        self._check = check
        # By shard: version, offsets, recorded checksums, and which bytes were compared; 13 bytes a chunk.
        # A memoryview yields plain integers quickly.
        self._indexes: dict[int, tuple[Hashable, memoryview, memoryview, bytearray]] = {}

    def read_rows(self, partition: int, start: int, stop: int) -> np.ndarray:
        """Rows start:stop of one partition, [stop - start, *item_shape]. Raises ChunkError."""
        array = self.array
        if stop <= start:
            return np.empty((0, *array.item_shape), array.dtype)
        first, last = start // array.rows, (stop - 1) // array.rows
        rows = np.empty(((last - first + 1) * array.rows, *array.item_shape), array.dtype)
        pieces = rows.view(np.uint8).reshape(last - first + 1, array.chunk_bytes)
        self.read_chunks([(partition, chunk) for chunk in range(first, last + 1)], list(pieces))
        return rows[start - first * array.rows : stop - first * array.rows]

    def read_needed(self, partition: int, needed: np.ndarray) -> np.ndarray:
        """Rows 0:len(needed) of one partition, the fill value where no row of an inner chunk is needed.

        Raises ChunkError.
        """
        array = self.array
        chunks = np.unique(np.flatnonzero(needed) // array.rows).tolist()
        padded = array.needed_chunks(len(needed)) * array.rows
        rows = np.full((padded, *array.item_shape), array.fill_value, array.dtype)
        if len(chunks):
            pieces = rows.view(np.uint8).reshape(-1, array.chunk_bytes)
            self.read_chunks([(partition, chunk) for chunk in chunks], [pieces[chunk] for chunk in chunks])
        return rows[: len(needed)]

    def read_chunks(self, places: Sequence[tuple[int, int]], into: Sequence[np.ndarray]) -> None:
        """Fill into[i] (uint8 [chunk_bytes], contiguous) with inner chunk places[i] = (partition, number).

        Chunks that lie one after the other in an object, in the order asked for, are read together. Raises
        ChunkError.
        """
        stored = np.empty(len(places), "<u4")
        checksums = list(stored.view(np.uint8).reshape(-1, CRC_BYTES))
        stride = self.array.chunk_bytes + CRC_BYTES
        recorded: list[_Recorded] = []
        for handle, offset, begin, end in self._runs(places, stride, recorded):
            buffers = [piece for i in range(begin, end) for piece in (into[i], checksums[i])]
            try:
                handle.read_into(offset, buffers, (end - begin) * stride)
            except EOFError:
                raise ChunkError(self.array, *places[begin], "the object ends too early") from None
        self._compare(places, into, stored.tolist(), recorded)

    def _runs(
        self, places: Sequence[tuple[int, int]], stride: int, recorded: list[_Recorded]
    ) -> Iterator[tuple[Handle, int, int, int]]:
        """Neighbouring chunks: (object, offset in it, begin and end in `places`). Raises ChunkError.

        Appends to `recorded` what is known of each of `places`.
        """
        if not places:
            return
        begin, group, record = 0, self.array.group, recorded.append
        shard = places[0][0] // group
        handle, index, sums, compared = self._index(places[0][0])
        while begin < len(places):
            partition, chunk = places[begin]
            if partition // group != shard:
                shard = partition // group
                handle, index, sums, compared = self._index(partition)
            base = (partition % group) * self.array.chunks_per_partition
            offset, end = index[base + chunk], begin + 1
            record((sums[base + chunk], compared, base + chunk))
            if offset < 0:
                what = "the record was never written" if offset == _ABSENT else "the index is impossible"
                raise ChunkError(self.array, partition, chunk, what)
            wanted = offset + stride
            while (
                end < len(places) and places[end][0] == partition and index[base + places[end][1]] == wanted
            ):
                following = base + places[end][1]
                record((sums[following], compared, following))
                wanted += stride
                end += 1
            yield handle, offset, begin, end
            begin = end

    def present(self, partition: int) -> np.ndarray:
        """bool [chunks_per_partition]: which inner chunks of a partition are stored. Raises ChunkError."""
        base = (partition % self.array.group) * self.array.chunks_per_partition
        _, index, _, _ = self._index(partition)
        return np.asarray(index)[base : base + self.array.chunks_per_partition] >= 0

    def compare_stored_sums(self, partition: int, chunks: Sequence[int]) -> None:
        """Compares the checksums beside some stored chunks with the recorded ones. Raises ChunkError."""
        handle, index, sums, _ = self._index(partition)
        base = (partition % self.array.group) * self.array.chunks_per_partition
        for chunk in chunks:
            stored = np.empty(1, "<u4")
            try:
                place = index[base + chunk] + self.array.chunk_bytes
                handle.read_into(place, [stored.view(np.uint8)], CRC_BYTES)
            except EOFError:
                raise ChunkError(self.array, partition, chunk, "the object ends too early") from None
            if stored[0] != sums[base + chunk]:
                raise ChunkError(self.array, partition, chunk, _NOT_COMMITTED)

    def _index(self, partition: int) -> tuple[Handle, memoryview, memoryview, bytearray]:
        """Of the object that holds a partition: handle, int64 offsets, recorded uint32 checksums, and 1 for
        each inner chunk whose bytes were compared."""
        shard = partition // self.array.group
        try:
            handle = self._open(self.array.key(shard))
        except FileNotFoundError:
            raise ChunkError(self.array, partition, 0, "the object is missing") from None
        known = self._indexes.get(shard)
        if known is None or known[0] != handle.version:
            index, sums = self._read_index(handle, partition), self._sums(shard)
            known = (handle.version, index, sums, bytearray(len(sums)))
            self._indexes[shard] = known
        return handle, *known[1:]

    def _read_index(self, handle: Handle, partition: int) -> memoryview:
        try:
            if handle.size < self.array.index_bytes:
                raise EOFError
            tail = np.empty(self.array.index_bytes, np.uint8)
            handle.read_into(handle.size - len(tail), [tail], len(tail))
            return parse_index(self.array, tail).data
        except EOFError:
            raise ChunkError(self.array, partition, 0, "the object is too short") from None
        except ValueError as error:
            raise ChunkError(self.array, partition, 0, str(error)) from None

    def _compare(
        self,
        places: Sequence[tuple[int, int]],
        into: Sequence[np.ndarray],
        stored: list[int],
        recorded: list[_Recorded],
    ) -> None:
        always, never, checksum = self._check == "always", self._check == "never", google_crc32c.value
        for place, data, found, (expected, compared, at) in zip(places, into, stored, recorded, strict=True):
            if found != expected:
                raise ChunkError(self.array, *place, _NOT_COMMITTED)
            if never or (compared[at] and not always):
                continue
            if checksum(data) != expected:
                raise ChunkError(self.array, *place, "the record does not match its crc32c")
            compared[at] = 1
