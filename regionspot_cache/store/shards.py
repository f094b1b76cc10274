"""Reading stored arrays without zarr: the index of a stored object is parsed once, then one positioned read
brings one inner chunk, or a run of neighbouring ones, straight into place.

Format: zarr v3 "sharding_indexed" codec, index at the end, inner codecs bytes + crc32c
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/).
"""

from collections.abc import Callable, Hashable, Iterator, Sequence

import google_crc32c
import numpy as np

from regionspot_cache.store.layout import CRC_BYTES, FILL_VALUES, INDEX_ENTRY_BYTES, StackedArray
from regionspot_cache.store.objects import Handle

_NO_CHUNK = np.uint64(2**64 - 1)
_ABSENT, _IMPOSSIBLE = -1, -2  # in place of an offset


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

    Args:
        array: its layout.
        tail: the last `array.index_bytes` bytes of the object.

    Raises:
        ValueError: the checksum of the index does not match.
    """
    body, stored = tail[:-CRC_BYTES], tail[-CRC_BYTES:]
    if google_crc32c.value(body) != int.from_bytes(stored.tobytes(), "little"):
        raise ValueError("the index does not match its checksum")
    entries = body.view("<u8").reshape(array.index_entries, INDEX_ENTRY_BYTES // 8)  # (offset, bytes)
    offsets = entries[:, 0].astype(np.int64)
    offsets[entries[:, 1] != array.chunk_bytes + CRC_BYTES] = _IMPOSSIBLE
    offsets[entries[:, 0] == _NO_CHUNK] = _ABSENT
    return offsets


class StoredArray:
    """Reads rows of one stored array.

    Args:
        open_object: opens a key for positioned reads.
        array: the layout of the array.
        check: compare every inner chunk with its crc32c.
    """

    def __init__(
        self, open_object: Callable[[str], Handle], array: StackedArray, *, check: bool = True
    ) -> None:
        self.array = array
        self._open = open_object
        self._check = check
        # Version and offsets by shard, 8 bytes an inner chunk. A memoryview yields plain integers quickly.
        self._indexes: dict[int, tuple[Hashable, memoryview]] = {}

    def read_rows(self, partition: int, start: int, stop: int) -> np.ndarray:
        """Rows start:stop of one partition, [stop - start, *item_shape].

        Raises:
            ChunkError: something needed is absent or damaged.
        """
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

        Args:
            partition: its number.
            needed: bool [rows].

        Raises:
            ChunkError: something needed is absent or damaged.
        """
        array = self.array
        chunks = np.unique(np.flatnonzero(needed) // array.rows).tolist()
        padded = array.needed_chunks(len(needed)) * array.rows
        rows = np.full((padded, *array.item_shape), FILL_VALUES[array.dtype], array.dtype)
        if len(chunks):
            pieces = rows.view(np.uint8).reshape(-1, array.chunk_bytes)
            self.read_chunks([(partition, chunk) for chunk in chunks], [pieces[chunk] for chunk in chunks])
        return rows[: len(needed)]

    def read_chunks(self, places: Sequence[tuple[int, int]], into: Sequence[np.ndarray]) -> None:
        """Fill into[i] (uint8 [chunk_bytes], contiguous) with inner chunk places[i] = (partition, number).

        Chunks that lie one after the other in an object, in the order asked for, are read together.

        Raises:
            ChunkError: a chunk is absent or damaged.
        """
        stored = np.empty(len(places), "<u4")
        checksums = list(stored.view(np.uint8).reshape(-1, CRC_BYTES))
        stride = self.array.chunk_bytes + CRC_BYTES
        for handle, offset, begin, end in self._runs(places, stride):
            buffers = [piece for i in range(begin, end) for piece in (into[i], checksums[i])]
            try:
                handle.read_into(offset, buffers, (end - begin) * stride)
            except EOFError:
                raise ChunkError(self.array, *places[begin], "the object ends too early") from None
        if self._check:
            self._compare(places, into, stored.tolist())

    def _runs(self, places: Sequence[tuple[int, int]], stride: int) -> Iterator[tuple[Handle, int, int, int]]:
        """Neighbouring chunks: (object, offset in it, begin and end in `places`). Raises ChunkError."""
        if not places:
            return
        begin, group = 0, self.array.group
        shard = places[0][0] // group
        handle, index = self._index(places[0][0])
        while begin < len(places):
            partition, chunk = places[begin]
            if partition // group != shard:
                shard = partition // group
                handle, index = self._index(partition)
            base = (partition % group) * self.array.chunks_per_partition
            offset, end = index[base + chunk], begin + 1
            if offset < 0:
                what = "the record was never written" if offset == _ABSENT else "the index is impossible"
                raise ChunkError(self.array, partition, chunk, what)
            wanted = offset + stride
            while (
                end < len(places) and places[end][0] == partition and index[base + places[end][1]] == wanted
            ):
                wanted += stride
                end += 1
            yield handle, offset, begin, end
            begin = end

    def present(self, partition: int) -> np.ndarray:
        """bool [chunks_per_partition]: which inner chunks of a partition are stored. Raises ChunkError."""
        base = (partition % self.array.group) * self.array.chunks_per_partition
        _, index = self._index(partition)
        return np.asarray(index)[base : base + self.array.chunks_per_partition] >= 0

    def _index(self, partition: int) -> tuple[Handle, memoryview]:
        shard = partition // self.array.group
        try:
            handle = self._open(self.array.key(shard))
        except FileNotFoundError:
            raise ChunkError(self.array, partition, 0, "the object is missing") from None
        known = self._indexes.get(shard)
        if known is None or known[0] != handle.version:
            known = (handle.version, self._read_index(handle, partition))
            self._indexes[shard] = known
        return handle, known[1]

    def _read_index(self, handle: Handle, partition: int) -> memoryview:
        tail = np.empty(self.array.index_bytes, np.uint8)
        try:
            if handle.size < len(tail):
                raise EOFError
            handle.read_into(handle.size - len(tail), [tail], len(tail))
            return parse_index(self.array, tail).data
        except EOFError:
            raise ChunkError(self.array, partition, 0, "the object is too short") from None
        except ValueError as error:
            raise ChunkError(self.array, partition, 0, str(error)) from None

    def _compare(
        self, places: Sequence[tuple[int, int]], into: Sequence[np.ndarray], stored: Sequence[int]
    ) -> None:
        checksum = google_crc32c.value
        for place, data, expected in zip(places, into, stored, strict=True):
            if checksum(data) != expected:
                raise ChunkError(self.array, *place, "the record does not match its crc32c")
