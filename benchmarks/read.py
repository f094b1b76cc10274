"""Shuffled reading of cached maps: our reader, the limit, stock Zarr readers, files and streaming formats."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.harness import OURS, Findings, Row, against, take_turns
from benchmarks.random_cache import MAP, Dtype, random_cache
from benchmarks.read_peers import NEEDS, PEERS, STREAMS, Batch, Reader, read_arrays
from benchmarks.settings import Read, Settings
from regionspot_cache.errors import RegionSpotError
from regionspot_cache.store import Cache

DTYPES: tuple[Dtype, ...] = ("int8", "float16")
LIMIT = "numpy memmap (limit)"
FORMATS = (".pth per image", *STREAMS)  # twice the speed of the best of them is the goal
REMARKS = [
    "The files are in the page cache: decoding, copies and overhead are compared, not disks.",
    "Every reader is called from one thread; tensorstore uses threads of its own. Ours checks checksums.",
    "window: random within one partition at a time; a stream shuffles by its own means.",
]


def measure(settings: Settings, folder: Path) -> Findings:
    """Samples a second of batches of random images, for int8 and float16 maps."""
    absent = [name for name, module in NEEDS.items() if find_spec(module) is None]
    rows = [row for dtype in DTYPES for row in _compare(settings, folder / dtype, dtype, absent)]
    return [*rows, *(f"{name}: not installed, not measured." for name in absent), *REMARKS]


def _compare(settings: Settings, folder: Path, dtype: Dtype, absent: list[str]) -> Iterator[Row]:
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
