"""Shuffled reading of cached maps: our reader, the limit, stock Zarr readers, files and streaming formats."""

import contextlib
import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib import import_module
from itertools import cycle, islice
from pathlib import Path
from pydoc import locate
from statistics import median
from typing import Any

import numpy as np

from benchmarks.harness import OURS, Findings, Row, against, take_turns
from benchmarks.random_cache import MAP, random_cache
from benchmarks.settings import Read, Settings
from regionspot_cache.errors import RegionSpotError
from regionspot_cache.store import Cache, StorageName, open_cache

Batch = list[np.ndarray]
"""Maps [B, N, C], and scales [B, N] of int8 maps."""
Reader = Callable[[np.ndarray], Batch]
"""Positions int64 [B] to a batch."""
ARRAYS = ("map", "map_scale")
SHARD_BYTES = 1 << 26
# Codec pipelines: of zarr-python from 3.3, which wants Python 3.12, and one in Rust.
FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"
ZARRS = "zarrs.ZarrsCodecPipeline"


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


def zarr_pipeline(path: str, folder: Path, cache: Cache) -> Reader:
    """zarr-python with another codec pipeline than its own default, an image a selection."""
    import zarr

    settings = {"codec_pipeline.path": path, "codec_pipeline.strict": True}  # strict is of zarrs
    with zarr.config.set(settings):  # arrays keep the pipeline that they are opened with
        return zarr_python(folder, cache)


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
    "zarr-python, fused": partial(zarr_pipeline, FUSED),
    "zarr-python with zarrs": partial(zarr_pipeline, ZARRS),
    "tensorstore": tensorstore,
    ".pth per image": pth_files,
}
STREAMS: dict[str, Callable[[Path, Cache, int], Iterator[Batch]]] = {
    "LitData": litdata,
    "MosaicML Streaming": mosaicml,
    "WebDataset": webdataset,
}
# What people may lack, as import paths of names.
NEEDS = {
    "zarr-python, fused": FUSED,
    "zarr-python with zarrs": ZARRS,
    "tensorstore": "tensorstore.open",
    "LitData": "litdata.StreamingDataset",
    "MosaicML Streaming": "streaming.StreamingDataset",
    "WebDataset": "webdataset.WebDataset",
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


DTYPES: tuple[StorageName, ...] = ("int8", "float16")
LIMIT = "numpy memmap (limit)"
FORMATS = (".pth per image", *STREAMS)  # twice the speed of the best of them is the goal
REMARKS = [
    "The files are in the page cache: decoding, copies and overhead are compared, not disks.",
    "Every reader is called from one thread; tensorstore and zarrs use threads of their own.",
    "Ours compares the checksum of a record when a process first reads it; at every read where that is said, "
    "as zarr-python, zarrs and tensorstore do. memmap checks nothing.",
    "window: random within one partition at a time; a stream shuffles by its own means.",
]


def measure(settings: Settings, folder: Path) -> Findings:
    """Samples a second of batches of random images, for int8 and float16 maps."""
    absent = [name for name, path in NEEDS.items() if locate(path) is None]
    rows = [row for dtype in DTYPES for row in _compare(settings, folder / dtype, dtype, absent)]
    return [*rows, *(f"{name}: not installed, not measured." for name in absent), *REMARKS]


def _compare(settings: Settings, folder: Path, dtype: StorageName, absent: list[str]) -> Iterator[Row]:
    work, shape = settings.read, (settings.read.tokens, settings.read.width)
    folder.mkdir()
    cache = random_cache(
        folder / "cache",
        images=work.images,
        map_shape=shape,
        dtype=dtype,
        partition_size=work.partition_size,
    ).cache
    readers: dict[str, Reader] = {OURS: partial(read_arrays, cache)}
    checked = open_cache(cache.url, check="always")
    readers["ours, every read compared"] = partial(read_arrays, checked)
    readers |= {name: make(folder, cache) for name, make in PEERS.items() if name not in absent}
    check_equal(readers, np.arange(min(3, work.images)))
    streams = {
        name: make(folder, cache, work.batch_size) for name, make in STREAMS.items() if name not in absent
    }
    for order, batches in (("random", random_order(work)), ("window", window_order(work))):
        contenders = {name: partial(_lookups, read, batches) for name, read in readers.items()}
        endless = {name: partial(iter, stream) for name, stream in streams.items()}
        yield from _rows(
            f"{dtype} maps {list(shape)}, {order}",
            contenders | endless if order == "window" else contenders,
            work.seconds,
            settings.repeats,
        )
    if dtype == "int8":
        yield _space(folder, cache)


def _rows(
    what: str, contenders: Mapping[str, Callable[[], Iterator[Batch]]], seconds: float, repeats: int
) -> list[Row]:
    rates = {name: partial(_rate, batches, seconds) for name, batches in contenders.items()}
    runs = take_turns(rates, repeats)
    best = max((name for name in FORMATS if name in runs), key=lambda name: median(runs[name]))
    return against(what, "samples/s", runs, goals={LIMIT: ">= 0.5x", best: ">= 2x"})


def _space(folder: Path, cache: Cache) -> Row:
    stored = sum(file.stat().st_size for file in (folder / "cache" / "clip").rglob("*") if file.is_file())
    shape = cache.array(MAP).item_shape
    return Row(
        what=f"stored map {list(shape)}",
        unit="KB/image",
        ours=(stored / cache.num_images / 1000,),
        peer="float16 values",
        theirs=(shape[0] * shape[1] * 2 / 1000,),
        lower=True,
        goal="<= 264" if shape == (257, 1024) else "-",
    )


def check_equal(readers: Mapping[str, Reader], images: np.ndarray) -> None:
    """Every reader returns the same values, or the figures would mean nothing. Raises RegionSpotError."""
    expected = readers[OURS](images)
    for name, read in readers.items():
        if not all(map(np.array_equal, expected, read(images))):
            raise RegionSpotError(f"{name} returns other values than our reader.", "Equal values.")


def _rate(batches: Callable[[], Iterator[Batch]], seconds: float) -> float:
    """Samples a second after one batch of warm-up."""
    source = batches()
    next(source)
    done, start = 0, time.perf_counter()
    for maps, *_ in source:
        done += len(maps)
        if time.perf_counter() - start >= seconds:
            break
    return done / (time.perf_counter() - start)


def _lookups(read: Reader, batches: list[np.ndarray]) -> Iterator[Batch]:
    return map(read, cycle(batches))


def random_order(work: Read) -> list[np.ndarray]:
    """Batches of four epochs, each in an order of its own."""
    rng = np.random.default_rng(0)
    return _cut(work, [rng.permutation(work.images) for _ in range(4)])


def window_order(work: Read) -> list[np.ndarray]:
    """Batches of four epochs, partition by partition in random order, random within each."""
    rng = np.random.default_rng(0)
    windows = np.split(np.arange(work.images), range(work.partition_size, work.images, work.partition_size))
    return _cut(work, [rng.permutation(windows[w]) for _ in range(4) for w in rng.permutation(len(windows))])


def _cut(work: Read, parts: list[np.ndarray]) -> list[np.ndarray]:
    images = np.concatenate(parts)
    return np.split(images, range(work.batch_size, len(images), work.batch_size))
