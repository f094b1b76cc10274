"""Streaming formats, where they are installed; each shuffles its own way and is read in this process."""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bench.machine import installed
from pipeline.bench.read_peers import Batch
from regionspot_cache.store import Cache

Stream = Callable[[], Iterator[Batch]]
SHARD_BYTES = 1 << 26


def litdata(folder: Path, cache: Cache, batch_size: int) -> Stream | None:
    """LitData: chunks of items, shuffled by chunk and within."""
    if not installed("litdata"):
        return None
    ld: Any = import_module("litdata")

    out = folder / "litdata"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ld.optimize(
            fn=partial(_item, cache),
            inputs=list(range(cache.num_images)),
            output_dir=str(out),
            chunk_bytes=SHARD_BYTES,
            num_workers=1,
        )
    return _endless(ld.StreamingDataset(str(out), shuffle=True), batch_size)


def mosaicml(folder: Path, cache: Cache, batch_size: int) -> Stream | None:
    """MosaicML Streaming: MDS shards, shuffled by blocks."""
    if not installed("mosaicml-streaming"):
        return None
    streaming: Any = import_module("streaming")

    out = str(folder / "mds")
    columns = {
        name: f"ndarray:{value.dtype}:{','.join(map(str, value.shape))}"
        for name, value in _item(cache, 0).items()
    }
    with streaming.MDSWriter(out=out, columns=columns, size_limit=SHARD_BYTES) as writer:
        for i in range(cache.num_images):
            writer.write(_item(cache, i))
    dataset = streaming.StreamingDataset(local=out, shuffle=True, batch_size=batch_size)
    return _endless(dataset, batch_size)


def webdataset(folder: Path, cache: Cache, batch_size: int) -> Stream | None:
    """WebDataset: tar files of .npy members, read one after the other through a shuffle buffer."""
    if not installed("webdataset"):
        return None
    wds: Any = import_module("webdataset")

    pattern = str(folder / "web-%04d.tar")
    with wds.ShardWriter(pattern, maxsize=SHARD_BYTES, verbose=0) as writer:
        for i in range(cache.num_images):
            writer.write(
                {"__key__": f"{i:08d}", **{f"{name}.npy": value for name, value in _item(cache, i).items()}}
            )
    shards = sorted(str(path) for path in folder.glob("web-*.tar"))
    source = wds.WebDataset(shards, shardshuffle=len(shards)).shuffle(cache.partition_size).decode()
    return _endless(source, batch_size, suffix=".npy")


STREAMS: dict[str, Callable[[Path, Cache, int], Stream | None]] = {
    "LitData": litdata,
    "MosaicML Streaming": mosaicml,
    "WebDataset": webdataset,
}


def _item(cache: Cache, i: int) -> dict[str, np.ndarray]:
    values, scale = cache.raw_map(i)
    return {"map": values} | ({} if scale is None else {"scale": scale})


def _endless(dataset: Iterable[dict[str, Any]], batch_size: int, *, suffix: str = "") -> Stream:
    """Batches of one epoch after the other; `suffix` is what the format adds to names."""

    def batches() -> Iterator[Batch]:
        while True:
            source = iter(dataset)
            while items := list(islice(source, batch_size)):
                scales = [item[f"scale{suffix}"] for item in items if f"scale{suffix}" in item]
                maps = np.stack([item[f"map{suffix}"] for item in items])
                yield maps, np.stack(scales) if scales else None

    running = batches()
    return lambda: running  # a new iterator would pay for its start in every run
