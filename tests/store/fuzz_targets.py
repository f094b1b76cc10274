"""Caches as fuzz targets: every file as bytes, every record by its content with a right checksum."""

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from pipeline.inspection import info, status
from regionspot_cache.errors import RegionSpotError
from regionspot_cache.store import LabelledCache, create_cache, open_cache, open_writer, verify
from regionspot_cache.store.records import CHECKSUM_KEY, to_record
from tests.fuzzing import Target
from tests.store.small_world import clip_part, make_cache, make_dataset, sam_part
from tests.store.updating import bring_up_to_date

RECORDS = (
    *("cache.json", "parts/sam.json", "parts/clip.json", "markers/clip/000000.json", "manifest.json"),
    "segments.json",
)
PLANNED, LATER = make_dataset(6).select(np.arange(5)), make_dataset(6).select(np.arange(1, 6))
FAILING = {"train/000001.jpg": "missing"}


def make(folder: Path) -> None:
    """A small sealed cache, one image of which failed, and one was given up for another."""
    make_cache(folder, PLANNED, failing=FAILING)
    bring_up_to_date(folder, LATER)


def read(folder: Path) -> None:
    """Everything that a cache is asked; the first refusal is raised when all have answered."""
    refusals = [error for error in (_refusal(partial(ask, folder)) for ask in ASKED) if error]
    if refusals:
        raise refusals[0]


def _refusal(ask: Callable[[], object]) -> RegionSpotError | None:
    try:
        ask()
    except RegionSpotError as error:
        return error
    return None


def _read_records(folder: Path) -> None:
    cache = open_cache(folder)
    for i in np.flatnonzero(cache.live).tolist():
        cache.image(i), cache.boxes(i), cache.size(i)
        for part, spec in cache.parts.items():
            for array in spec.arrays if cache.ok(i, part) else ():
                cache.read(f"{part}/{array.name}", i)
    assert cache.counts
    for part in cache.parts:
        cache.stamps(part)
    LabelledCache(cache, LATER)


def _write(folder: Path) -> None:
    writer = open_writer(folder)
    for part in writer.parts:
        writer.pending(part), writer.failed(part)
    writer.partition(0)


def _verify(folder: Path, level: str) -> None:
    problems = verify(folder, level)
    if problems:
        raise RegionSpotError(problems[0].detail)


def _plan_again(folder: Path) -> None:
    create_cache(folder, PLANNED, partition_size=4, parts=[sam_part(), clip_part()])


def _quietly(verb: Callable, folder: Path) -> None:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        verb(str(folder))
        verb(str(folder), as_json=True)


ASKED: tuple[Callable[[Path], object], ...] = (
    _read_records,
    _write,
    partial(_verify, level="fast"),
    partial(_verify, level="full"),
    partial(_quietly, status),
    partial(_quietly, info),
)


@lru_cache(maxsize=1)
def _good() -> tempfile.TemporaryDirectory:
    folder = tempfile.TemporaryDirectory(prefix="rs-fuzz-cache-")
    make(Path(folder.name) / "cache")
    return folder


def content(record: str) -> bytes:
    """The value of a record of the small cache as JSON, without its checksum."""
    value = json.loads((Path(_good().name) / "cache" / record).read_bytes())
    del value[CHECKSUM_KEY]
    return json.dumps(value).encode()


def read_content(file: Path, record: str) -> None:
    """Reads a cache whose `record` says what the file says, under a checksum that is right."""
    if not file.is_file():
        raise RegionSpotError("no content of a record")
    try:
        signed = to_record(json.loads(file.read_bytes()))
    except (ValueError, TypeError, OSError, RecursionError):
        raise RegionSpotError("no content of a record") from None
    with tempfile.TemporaryDirectory(prefix="rs-fuzz-cache-") as place:
        cache = Path(place) / "cache"
        shutil.copytree(Path(_good().name) / "cache", cache)
        (cache / record).write_bytes(signed)
        refused = _refusal(partial(read, cache))
        refused = _refusal(partial(_plan_again, cache)) or refused
    if refused:
        raise refused


TARGETS = [
    Target(name="cache", sample=make, read=read, structured=False, share=0.4),
    *(
        Target(
            name=f"cache record {record}",
            sample=content(record),
            read=partial(read_content, record=record),
            suffix=".json",
            share=0.2,
        )
        for record in RECORDS
    ),
]
