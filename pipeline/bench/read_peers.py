"""Other readers of the same maps, by image: a flat file, stock Zarr readers of our cache, a file an image."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from regionspot_cache.store import Cache

Batch = tuple[np.ndarray, np.ndarray | None]
"""Maps [B, N, C] and scales [B, N] of int8 maps."""
ReadBatch = Callable[[np.ndarray], Batch]
"""Positions int64 [B] to a batch."""


def memmap(folder: Path, cache: Cache) -> ReadBatch:
    """One flat file an array: a copy out of the page cache and nothing else."""
    arrays = {name: _flat(folder / name, cache, k) for k, name in enumerate(_names(cache))}
    return _both(cache, lambda name, images: arrays[name][images])


def zarr_python(folder: Path, cache: Cache) -> ReadBatch:
    """zarr-python on our cache, an image a selection: many times faster than one `oindex` of all of them."""
    import zarr

    group = zarr.open_group(folder / "cache" / "clip", mode="r")

    def read_array(name: str, images: np.ndarray) -> np.ndarray:
        array: Any = group[name]
        size = cache.partition_size
        return np.stack([array[int(i) // size, int(i) % size] for i in images])

    return _both(cache, read_array)


def tensorstore(folder: Path, cache: Cache) -> ReadBatch:
    """tensorstore on our cache, a future an image; its metadata is not checked again at every read."""
    import tensorstore as ts

    def opened(name: str) -> Any:
        path = str(folder / "cache" / "clip" / name)
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
        spec |= {"recheck_cached_data": "open", "recheck_cached_metadata": "open"}
        return ts.open(spec, read=True).result()

    arrays = {name: opened(name) for name in _names(cache)}

    def read_array(name: str, images: np.ndarray) -> np.ndarray:
        size = cache.partition_size
        futures = [arrays[name][int(i) // size, int(i) % size].read() for i in images]
        return np.stack([future.result() for future in futures])

    return _both(cache, read_array)


def pth_files(folder: Path, cache: Cache) -> ReadBatch:
    """The official layout: one file of torch tensors an image."""
    import torch

    (folder / "pth").mkdir()
    for i in range(cache.num_images):
        values, scale = cache.raw_map(i)
        item = {"map": torch.from_numpy(values)} | (
            {} if scale is None else {"map_scale": torch.from_numpy(scale)}
        )
        torch.save(item, folder / "pth" / f"{i}.pth")

    def read(images: np.ndarray) -> Batch:
        items = [torch.load(folder / "pth" / f"{i}.pth", weights_only=True) for i in images]
        # numpy stacks: torch would call in its threads, which no other reader has.
        maps = np.stack([item["map"].numpy() for item in items])
        scales = [item["map_scale"].numpy() for item in items if "map_scale" in item]
        return maps, np.stack(scales) if scales else None

    return read


PEERS: dict[str, Callable[[Path, Cache], ReadBatch]] = {
    "numpy memmap (limit)": memmap,
    "zarr-python": zarr_python,
    "tensorstore": tensorstore,
    ".pth per image": pth_files,
}


def _names(cache: Cache) -> list[str]:
    return ["map", "map_scale"] if cache.halves["clip"].arrays[0].dtype == "int8" else ["map"]


def _both(cache: Cache, read_array: Callable[[str, np.ndarray], np.ndarray]) -> ReadBatch:
    def read(images: np.ndarray) -> Batch:
        found = [read_array(name, images) for name in _names(cache)]
        return found[0], found[1] if len(found) == 2 else None

    return read


def _flat(path: Path, cache: Cache, part: int) -> np.ndarray:
    """A memory map of part 0 (values) or 1 (scales) of all maps."""
    items = np.stack([np.asarray(cache.raw_map(i)[part]) for i in range(cache.num_images)])
    items.tofile(path)
    return np.memmap(path, items.dtype, "r", shape=items.shape)
