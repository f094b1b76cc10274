"""Other readers of the same maps: a flat file, stock Zarr readers, a file an image, streaming formats."""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.random_cache import MAP
from regionspot_cache.store import Cache

Batch = list[np.ndarray]
"""Maps [B, N, C], and scales [B, N] of int8 maps."""
Reader = Callable[[np.ndarray], Batch]
"""Positions int64 [B] to a batch."""
ARRAYS = ("map", "map_scale")
SHARD_BYTES = 1 << 26


def read_arrays(cache: Cache, images: np.ndarray) -> Batch:
    """With our own reader."""
    return [array for array in cache.raw_images(MAP, images.tolist()) if array is not None]


def memmap(folder: Path, cache: Cache) -> Reader:
    """One flat file an array: a copy out of the page cache and nothing else."""
    flat = []
    for name, array in zip(ARRAYS, read_arrays(cache, np.arange(cache.num_images)), strict=False):
        array.tofile(folder / name)
        flat.append(np.memmap(folder / name, array.dtype, "r", shape=array.shape))
    return lambda images: [array[images] for array in flat]


def zarr_python(folder: Path, cache: Cache) -> Reader:
    """zarr-python on our cache, an image a selection: many times faster than one `oindex` of all of them."""
    import zarr

    group = zarr.open_group(folder / "cache" / "clip", mode="r")
    arrays: list[Any] = [group[name] for name in ARRAYS if name in group]
    size = cache.partition_size
    return lambda images: [np.stack([a[divmod(i, size)] for i in images.tolist()]) for a in arrays]


def tensorstore(folder: Path, cache: Cache) -> Reader:
    """tensorstore on our cache, a future an image; its metadata is not checked again at every read."""
    import tensorstore as ts

    paths = [path for name in ARRAYS if (path := folder / "cache" / "clip" / name).is_dir()]
    once = {"recheck_cached_data": "open", "recheck_cached_metadata": "open"}
    specs = [{"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}, **once} for path in paths]
    arrays = [ts.open(spec, read=True).result() for spec in specs]

    def read(images: np.ndarray) -> Batch:
        places = [divmod(i, cache.partition_size) for i in images.tolist()]
        futures = [[array[place].read() for place in places] for array in arrays]
        return [np.stack([future.result() for future in some]) for some in futures]

    return read


def pth_files(folder: Path, cache: Cache) -> Reader:
    """The official layout: one file of torch tensors an image."""
    import torch

    (folder / "pth").mkdir()
    for i in range(cache.num_images):
        torch.save({k: torch.from_numpy(v) for k, v in _item(cache, i).items()}, folder / "pth" / f"{i}.pth")

    def read(images: np.ndarray) -> Batch:
        items = [torch.load(folder / "pth" / f"{i}.pth", weights_only=True) for i in images]
        # numpy stacks: torch would call in its threads, which no other reader has.
        return [np.stack([item[name].numpy() for item in items]) for name in items[0]]

    return read


def litdata(folder: Path, cache: Cache, batch_size: int) -> Iterator[Batch]:
    """LitData: chunks of items, shuffled by chunk and within."""
    ld: Any = import_module("litdata")
    out = str(folder / "litdata")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ld.optimize(
            fn=partial(_item, cache),
            inputs=list(range(cache.num_images)),
            output_dir=out,
            chunk_bytes=SHARD_BYTES,
            num_workers=1,
        )
    return _endless(ld.StreamingDataset(out, shuffle=True), batch_size)


def mosaicml(folder: Path, cache: Cache, batch_size: int) -> Iterator[Batch]:
    """MosaicML Streaming: MDS shards, shuffled by blocks."""
    streaming: Any = import_module("streaming")
    out = str(folder / "mds")
    columns = {k: f"ndarray:{v.dtype}:{','.join(map(str, v.shape))}" for k, v in _item(cache, 0).items()}
    with streaming.MDSWriter(out=out, columns=columns, size_limit=SHARD_BYTES) as writer:
        for i in range(cache.num_images):
            writer.write(_item(cache, i))
    return _endless(streaming.StreamingDataset(local=out, shuffle=True, batch_size=batch_size), batch_size)


def webdataset(folder: Path, cache: Cache, batch_size: int) -> Iterator[Batch]:
    """WebDataset: tar files of .npy members, read one after the other through a shuffle buffer."""
    wds: Any = import_module("webdataset")
    with wds.ShardWriter(str(folder / "web-%04d.tar"), maxsize=SHARD_BYTES, verbose=0) as writer:
        for i in range(cache.num_images):
            members = {f"{name}.npy": value for name, value in _item(cache, i).items()}
            writer.write({"__key__": f"{i:08d}", **members})
    shards = sorted(str(path) for path in folder.glob("web-*.tar"))
    dataset = wds.WebDataset(shards, shardshuffle=len(shards)).shuffle(cache.partition_size).decode()
    return _endless(dataset, batch_size, suffix=".npy")


PEERS: dict[str, Callable[[Path, Cache], Reader]] = {
    "numpy memmap (limit)": memmap,
    "zarr-python": zarr_python,
    "tensorstore": tensorstore,
    ".pth per image": pth_files,
}
STREAMS: dict[str, Callable[[Path, Cache, int], Iterator[Batch]]] = {
    "LitData": litdata,
    "MosaicML Streaming": mosaicml,
    "WebDataset": webdataset,
}
# Modules of peers that people may lack.
NEEDS = {
    "tensorstore": "tensorstore",
    "LitData": "litdata",
    "MosaicML Streaming": "streaming",
    "WebDataset": "webdataset",
}


def _item(cache: Cache, i: int) -> dict[str, np.ndarray]:
    return {name: values[0] for name, values in zip(ARRAYS, read_arrays(cache, np.array([i])), strict=False)}


def _endless(dataset: Iterable[dict[str, Any]], batch_size: int, *, suffix: str = "") -> Iterator[Batch]:
    """Batches of one epoch after the other; `suffix` is what the format adds to names."""
    while True:
        source = iter(dataset)
        while items := list(islice(source, batch_size)):
            names = [name + suffix for name in ARRAYS if name + suffix in items[0]]
            yield [np.stack([item[name] for item in items]) for name in names]
