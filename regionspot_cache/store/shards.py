"""Reading stored arrays without zarr: the index of a stored object is parsed once, then one positioned read
brings one inner chunk, or a run of neighbouring ones, straight into place.

Format: zarr v3 "sharding_indexed" codec, index at the end, inner codecs bytes + crc32c
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/).
"""

from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise

import google_crc32c
import numpy as np

from regionspot_cache.store.layout import CRC_BYTES, FILL_VALUES, INDEX_ENTRY_BYTES, StackedArray
from regionspot_cache.store.objects import Handle

_NO_CHUNK = np.uint64(2**64 - 1)


class ChunkError(Exception):
    """An inner chunk that is needed cannot be read. Callers that know the image make it a DamageError."""

    def __init__(self, array: StackedArray, partition: int, chunk: int, detail: str) -> None:
        super().__init__(array, partition, chunk, detail)
        self.array, self.partition, self.chunk, self.detail = array, partition, chunk, detail

    def __str__(self) -> str:
        key = self.array.key(self.partition // self.array.group)
        return f"{self.detail} (array {self.array.path}, partition {self.partition}, object {key})"


def parse_index(array: StackedArray, tail: np.ndarray) -> np.ndarray:
    """Index [entries, 2] (offset, bytes) from the last `array.index_bytes` bytes of a stored object.

    Raises:
        ValueError: the checksum of the index does not match.
    """
    body, stored = tail[:-CRC_BYTES], tail[-CRC_BYTES:]
    if google_crc32c.value(body) != int.from_bytes(stored.tobytes(), "little"):
        raise ValueError("the index does not match its checksum")
    return body.view("<u8").reshape(array.index_entries, INDEX_ENTRY_BYTES // 8)


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
        self._indexes: dict[int, tuple[Hashable, np.ndarray]] = {}  # by shard

    @property
    def stored_chunk_bytes(self) -> int:
        """Bytes of an inner chunk as stored, checksum included."""
        return self.array.chunk_bytes + CRC_BYTES

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
        self.read_chunks(partition, range(first, last + 1), list(pieces))
        return rows[start - first * array.rows : stop - first * array.rows]

    def read_chunks(self, partition: int, chunks: Sequence[int], into: Sequence[np.ndarray]) -> None:
        """Fill into[i] (uint8 [chunk_bytes], contiguous) with inner chunk chunks[i] of one partition.

        Chunks that lie one after the other in the object, in the order asked for, are read together.

        Raises:
            ChunkError: a chunk is absent or damaged.
        """
        handle, index = self._index(partition, chunks[0])
        base = (partition % self.array.group) * self.array.chunks_per_partition
        entries = index[base + np.asarray(chunks)]  # [n, 2]
        stride = self.stored_chunk_bytes
        bad = np.flatnonzero(entries[:, 1] != stride)
        if len(bad):
            self._refuse(partition, chunks[bad[0]], entries[bad[0]])
        offsets = entries[:, 0].astype(np.int64)
        stored = np.empty((len(chunks), 1), "<u4")
        buffers = [buffer for pair in zip(into, stored, strict=True) for buffer in pair]
        breaks = np.flatnonzero(np.diff(offsets) != stride) + 1
        edges = [0, *breaks.tolist(), len(chunks)]
        for begin, end in pairwise(edges):
            try:
                handle.read_into(int(offsets[begin]), buffers[2 * begin : 2 * end])
            except EOFError:
                detail = "the object ends too early"
                raise ChunkError(self.array, partition, chunks[begin], detail) from None
        if self._check:
            self._compare(partition, chunks, into, stored)

    def read_needed(self, partition: int, needed: np.ndarray) -> np.ndarray:
        """Rows 0:len(needed) of one partition, the fill value where no row of an inner chunk is needed.

        Args:
            partition: its number.
            needed: bool [rows].

        Raises:
            ChunkError: something needed is absent or damaged.
        """
        array = self.array
        chunks = np.unique(np.flatnonzero(needed) // array.rows)
        padded = array.needed_chunks(len(needed)) * array.rows
        rows = np.full((padded, *array.item_shape), FILL_VALUES[array.dtype], array.dtype)
        if len(chunks):
            pieces = rows.view(np.uint8).reshape(-1, array.chunk_bytes)
            self.read_chunks(partition, chunks.tolist(), [pieces[chunk] for chunk in chunks])
        return rows[: len(needed)]

    def chunk_entries(self, partition: int) -> np.ndarray:
        """Index entries [chunks_per_partition, 2] of one partition. Raises ChunkError."""
        _, index = self._index(partition, 0)
        base = (partition % self.array.group) * self.array.chunks_per_partition
        return index[base : base + self.array.chunks_per_partition]

    def _index(self, partition: int, chunk: int) -> tuple[Handle, np.ndarray]:
        shard = partition // self.array.group
        try:
            handle = self._open(self.array.key(shard))
        except FileNotFoundError:
            raise ChunkError(self.array, partition, chunk, "the object is missing") from None
        known = self._indexes.get(shard)
        if known is not None and known[0] == handle.version:
            return handle, known[1]
        tail = np.empty(self.array.index_bytes, np.uint8)
        try:
            if handle.size < len(tail):
                raise EOFError
            handle.read_into(handle.size - len(tail), [tail])
            index = parse_index(self.array, tail)
        except EOFError:
            raise ChunkError(self.array, partition, chunk, "the object is too short") from None
        except ValueError as error:
            raise ChunkError(self.array, partition, chunk, str(error)) from None
        self._indexes[shard] = (handle.version, index)
        return handle, index

    def _refuse(self, partition: int, chunk: int, entry: np.ndarray) -> None:
        absent = entry[0] == _NO_CHUNK
        detail = "the record was never written" if absent else "the index holds an impossible size"
        raise ChunkError(self.array, partition, chunk, detail)

    def _compare(
        self, partition: int, chunks: Sequence[int], into: Sequence[np.ndarray], stored: np.ndarray
    ) -> None:
        checksum = google_crc32c.value
        for chunk, data, expected in zip(chunks, into, stored[:, 0].tolist(), strict=True):
            if checksum(data) != expected:
                raise ChunkError(self.array, partition, chunk, "the record does not match its crc32c")
