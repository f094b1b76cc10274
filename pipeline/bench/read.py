"""Shuffled reading of cached maps: our reader, the limit, stock Zarr readers, files and streaming formats."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np

from pipeline.bench.machine import installed
from pipeline.bench.read_peers import PEERS, Batch, ReadBatch
from pipeline.bench.read_streaming import STREAMS
from pipeline.bench.result import OURS, Findings, Goal, Row, against, take_turns
from pipeline.bench.settings import BenchSettings, ReadBench
from pipeline.bench.synthetic import MapDtype, random_cache
from regionspot_cache.errors import RegionSpotError
from regionspot_cache.store import Cache

DTYPES: tuple[MapDtype, ...] = ("int8", "float16")
LIMIT = "numpy memmap (limit)"
GOALS = {LIMIT: Goal(of="ratio", at_least=0.5)}
BEST_GOAL = Goal(of="ratio", at_least=2)
FORMATS = (".pth per image", *STREAMS)  # what the goal compares with
OURS_BYTES = Goal(of="ours", at_most=264)

Batches = Callable[[], Iterator[Batch]]


def measure(settings: BenchSettings, folder: Path) -> Findings:
    """Samples a second of batches of random images, for int8 and float16 maps."""
    found = Findings()
    for dtype in DTYPES:
        _measure(settings.read, settings.repeats, folder / dtype, dtype, found)
    found.notes += [
        "The files are in the page cache: decoding, copies and overhead are compared, not disks.",
        "Every reader is called from one thread; tensorstore uses threads of its own. Ours checks checksums.",
        "window: random within one partition at a time; a stream shuffles by its own means.",
    ]
    return found


def _measure(work: ReadBench, repeats: int, folder: Path, dtype: MapDtype, found: Findings) -> None:
    folder.mkdir()
    shape = (work.tokens, work.width)
    cache = random_cache(
        folder / "cache",
        images=work.images,
        map_shape=shape,
        dtype=dtype,
        partition_size=work.partition_size,
    )
    readers: dict[str, ReadBatch] = {OURS: lambda images: cache.raw_maps(images.tolist())}
    for name, make in PEERS.items():
        if name != "tensorstore" or installed(name):  # the only one that users may lack
            readers[name] = make(folder, cache)
        elif dtype == DTYPES[0]:
            found.notes.append(f"{name}: not installed, not measured.")
    _check_equal(readers, np.arange(min(3, work.images)))
    orders = {"random": _random_order(work), "window": _window_order(work)}
    streams: dict[str, Batches] = {}
    for name, make in STREAMS.items():
        stream = make(folder, cache, work.batch_size)
        if stream is not None:
            streams[name] = stream
        elif dtype == DTYPES[0]:
            found.notes.append(f"{name}: not installed, not measured.")
    for order, batches in orders.items():
        contenders = {name: partial(_lookups, read, batches) for name, read in readers.items()}
        if order == "window":
            contenders |= streams
        runs = take_turns(
            {name: partial(_rate, batches, work.seconds) for name, batches in contenders.items()}, repeats
        )
        found.rows += _rows(f"{dtype} maps {list(shape)}, {order}", runs)
    if dtype == "int8":
        found.rows.append(_space(folder, cache))


def _rows(what: str, runs: dict[str, tuple[float, ...]]) -> list[Row]:
    rivals = [name for name in FORMATS if name in runs]
    best = max(rivals, key=lambda name: float(np.median(runs[name])))
    return against(what, "samples/s", runs, goals=GOALS | {best: BEST_GOAL})


def _space(folder: Path, cache: Cache) -> Row:
    stored = sum(file.stat().st_size for file in (folder / "cache" / "clip").rglob("*") if file.is_file())
    tokens, width = cache.halves["clip"].arrays[0].item_shape
    return Row(
        what=f"stored map {[tokens, width]}",
        unit="KB/image",
        ours=(stored / cache.num_images / 1000,),
        peer="float16 values",
        theirs=(tokens * width * 2 / 1000,),
        better="lower",
        goal=OURS_BYTES if (tokens, width) == (257, 1024) else None,
    )


def _check_equal(readers: dict[str, ReadBatch], images: np.ndarray) -> None:
    """Every reader returns the same values, or the figures would mean nothing."""
    expected = readers[OURS](images)
    for name, read in readers.items():
        for ours, theirs in zip(expected, read(images), strict=True):
            if ours is not None and (theirs is None or not np.array_equal(ours, theirs)):
                raise RegionSpotError(f"{name} returns other values than our reader.", "Equal values.")


def _rate(batches: Batches, seconds: float) -> float:
    """Samples a second after one batch of warm-up."""
    source = batches()
    next(source)
    done, start = 0, time.perf_counter()
    for maps, _ in source:
        done += len(maps)
        if time.perf_counter() - start >= seconds:
            break
    return done / (time.perf_counter() - start)


def _lookups(read: ReadBatch, batches: list[np.ndarray]) -> Iterator[Batch]:
    for images in cycle(batches):
        yield read(images)


def _random_order(work: ReadBench) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return _cut(work, [rng.permutation(work.images) for _ in range(4)])


def _window_order(work: ReadBench) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    starts = range(0, work.images, work.partition_size)
    windows = [np.arange(start, min(start + work.partition_size, work.images)) for start in starts]
    return _cut(work, [rng.permutation(windows[w]) for _ in range(4) for w in rng.permutation(len(windows))])


def _cut(work: ReadBench, parts: list[np.ndarray]) -> list[np.ndarray]:
    images = np.concatenate(parts)
    return [images[start : start + work.batch_size] for start in range(0, len(images), work.batch_size)]
