"""Stored objects and metadata, built by stock zarr in memory.

Zarr never touches the cache folder itself: its writes are neither synced nor guarded by a marker.
It is imported by what writes, so that looking into a cache does not wait for it.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from regionspot_cache.store.layout import StackedArray

if TYPE_CHECKING:
    import zarr
    from zarr.storage import MemoryStore

METADATA = "zarr.json"


def group_metadata() -> bytes:
    """zarr.json of a group."""
    import zarr
    from zarr.storage import MemoryStore

    stored: dict[str, Any] = {}
    zarr.create_group(MemoryStore(stored))
    return stored[METADATA].to_bytes()


def array_metadata(array: StackedArray) -> bytes:
    """zarr.json of the whole array [P, length, *item_shape]."""
    from zarr.storage import MemoryStore

    stored: dict[str, Any] = {}
    _create(MemoryStore(stored), array, array.shape)
    return stored[METADATA].to_bytes()


def encode_shard(array: StackedArray, block: np.ndarray) -> memoryview | None:
    """Bytes of the stored object that holds `block` [group or fewer, length, *item_shape].

    The object does not depend on its place along axis 0, so it is written as shard 0 of an array of its own,
    in one whole-shard write. Inner chunks of fill values only are left out; None when that is all of them.
    """
    from zarr.storage import MemoryStore

    stored: dict[str, Any] = {}
    _create(MemoryStore(stored), array, block.shape)[...] = block
    found = stored.get(array.key(0).removeprefix(f"{array.path}/"))
    return None if found is None else found.as_numpy_array().view(np.uint8).data


def empty_block(array: StackedArray, partitions: int = 1) -> np.ndarray:
    """A block [partitions, length, *item_shape] in which nothing is written yet."""
    shape = (partitions, array.length, *array.item_shape)
    return np.full(shape, array.fill_value, array.dtype)


def _create(store: "MemoryStore", array: StackedArray, shape: tuple[int, ...]) -> "zarr.Array":
    import zarr
    from zarr.codecs import Crc32cCodec

    return zarr.create_array(
        store,
        shape=shape,
        dtype=array.dtype,
        chunks=array.chunk_shape,
        shards=array.shard_shape,
        filters=None,
        compressors=Crc32cCodec(),
        fill_value=array.fill_value,
        chunk_key_encoding={"name": "default", "separator": "."},
        # The fill value is never a stored value (storage.FILL_VALUES), so no needed chunk can be dropped.
        config={"write_empty_chunks": False},
    )
