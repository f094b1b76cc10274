"""A cache in another storage type: the same plan and networks, its features decoded and encoded again.

It is written as extraction writes: partitions are claimed, committed as a whole with a marker, and sealed at
the end, so a killed conversion goes on where it stopped and several processes share one.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from time import perf_counter

import numpy as np

from regionspot_cache.errors import IdentityError, InputError
from regionspot_cache.store.create import add_parts
from regionspot_cache.store.identity import CACHE_KEY, CacheRecord
from regionspot_cache.store.layout import ArraySpec, PartSpec
from regionspot_cache.store.objects import Objects, open_objects
from regionspot_cache.store.publish import Features, row_mask
from regionspot_cache.store.reader import Cache, open_cache
from regionspot_cache.store.records import damage, digest
from regionspot_cache.store.segments import SEGMENTS_KEY, segment_places
from regionspot_cache.store.storage import SCALE, StorageName, Stored, array_dtype
from regionspot_cache.store.verify import verify
from regionspot_cache.store.writer import CacheWriter, open_writer

_BLOCK_VALUES = 1 << 22  # that are float32 at a time
_COMPARED = 64  # images


def convert(
    path: str | Path,
    out: str | Path,
    dtype: StorageName,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Writes, or goes on writing, a sealed cache again as `dtype`, and verifies the result.

    Vectors of boxes are int8 where `dtype` is int4 (`storage.array_dtype`); an array that has its type is
    copied bit by bit. Parts keep their fingerprints: the type is recorded beside them, in their arrays.

    Args:
        path: folder or URL of the cache; it is only read.
        out: folder or URL of the new one.
        dtype: a type of no more bits than the one of any array.
        progress: told (partitions done, partitions of all segments).

    Returns:
        By PART/ARRAY of another type: "cosine_mean" and "cosine_worst" of its vectors with those they were
        made of, over images from all of the cache.

    Raises:
        InputError: `dtype` is finer than what is stored, or is that already, or `out` is `path`.
        IdentityError: `out` holds another cache.
        MissingFileError, IncompleteError, DamageError: as of `open_cache`.
    """
    here, there = open_objects(path), open_objects(out)
    if here.url == there.url:
        raise InputError(f"{path} twice", "another folder for the new cache", "--out DIR")
    source = open_cache(path, parts=tuple(open_writer(path).parts))
    specs = [_spec_as(spec, dtype, here.url) for spec in source.parts.values()]
    if specs == [*source.parts.values()]:
        raise InputError(f"{path} is stored as {dtype} already", "another type", "rs-cache info says which")
    pairs = []
    for place in segment_places(path):
        target = there.url + place.removeprefix(here.url)
        _copy_plan(open_objects(place), open_objects(target))
        pairs.append((open_writer(place), add_parts(target, specs)))
    if here.size(SEGMENTS_KEY) is not None:
        with there.exclusive("update") as stage:
            stage.put(SEGMENTS_KEY, here.read(SEGMENTS_KEY))
            stage.publish()
    total = sum(target.num_partitions for _, target in pairs)
    done = 0
    for before, after in reversed(pairs):  # the first segment last: readers look for its seal
        for _ in _filled(before, after):
            done += 1
            if progress:
                progress(done, total)
        after.seal()
        after.collect_garbage()
    if problems := verify(out):
        raise damage(str(problems[0]), "a whole cache", there.url)
    return _fidelity(source, open_cache(out))


def _spec_as(spec: PartSpec, dtype: StorageName, url: str) -> PartSpec:
    """A part as `dtype`; InputError where that is finer than what it holds."""
    arrays = tuple(replace(a, dtype=array_dtype(dtype, a.item_shape, per_box=a.ragged)) for a in spec.arrays)
    for old, new in zip(spec.arrays, arrays, strict=True):
        if new.storage.bits > old.storage.bits:
            raise InputError(
                f"{url} holds {spec.name}/{old.name} as {old.dtype}, and {new.dtype} would be finer",
                f"a type of at most {old.storage.bits} bits: what was rounded away does not come back",
                f"rs-cache extract --cache OTHER --set dtype={dtype} computes the features again",
            )
    return replace(spec, arrays=arrays)


def _copy_plan(here: Objects, there: Objects) -> None:
    """Images and boxes, object by object, and cache.json last."""
    record = CacheRecord.read(here)
    with there.exclusive("plan") as stage:
        if there.size(CACHE_KEY) is not None:
            if CacheRecord.read(there).plan_digest != record.plan_digest:
                raise IdentityError(
                    f"{there.url} is a cache of other images or boxes",
                    f"no cache, or one converted from {here.url}",
                    "choose another --out",
                )
            return
        for key, entry in record.objects.items():
            data = here.read(key)
            if digest(data) != entry.sha256:
                raise damage(f"{key} of {here.url} is not as recorded", "the plan of the cache", here.url)
            stage.put(key, data)
            stage.publish()
        stage.put_if_absent(CACHE_KEY, record.to_bytes())


def _filled(source: CacheWriter, target: CacheWriter) -> Iterator[int]:
    """Converts every partition, those last that another process is at work on; gives each that is done."""
    busy = []
    for partition in range(target.num_partitions):
        try:
            with target.claim(partition):
                _convert_partition(source, target, partition)
        except BlockingIOError:
            busy.append(partition)
            continue
        yield partition
    for partition in busy:
        with target.claim(partition, wait=True):
            _convert_partition(source, target, partition)
        yield partition


def _convert_partition(source: CacheWriter, target: CacheWriter, partition: int) -> None:
    for part, spec in target.parts.items():
        if target.marker(part, partition) is not None:
            continue
        started, plan = perf_counter(), source.partition(partition)
        marker, rows = source.marker(part, partition), source.read_partition(part, partition)
        arrays: dict[str, Features] = {}
        for old, new in zip(source.parts[part].arrays, spec.arrays, strict=True):
            stored = Stored(rows[old.name], rows.get(old.name + SCALE))
            ok = row_mask(old.ragged, plan, rows["status"])
            arrays[old.name] = stored if old == new else _encoded(stored, old, new, np.flatnonzero(ok))
        listed = zip(marker.failed, marker.failures, strict=True) if marker else ()
        details = {slot: str(one["detail"]) for (slot, _), one in listed if "detail" in one}
        spent = {"convert": perf_counter() - started}
        target.commit(
            part, partition, arrays, rows["status"], files=rows["file"], details=details, timings=spent
        )


def _encoded(stored: Stored, old: ArraySpec, new: ArraySpec, rows: np.ndarray) -> Stored:
    """Some rows in the new type; the others are undefined, and never stored."""
    room = new.storage.empty((len(stored.values), *new.item_shape))
    step = max(1, _BLOCK_VALUES // prod(new.item_shape))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        room.put(some, new.storage.encode(old.storage.decode(*stored.take(some))))
    return room


def _fidelity(source: Cache, target: Cache) -> dict[str, dict[str, float]]:
    """See `convert`."""
    found = {}
    for part, spec in source.parts.items():
        good = np.flatnonzero(source.ok_mask(part))
        chosen = good[np.linspace(0, len(good) - 1, min(_COMPARED, len(good))).astype(int)].tolist()
        for array in spec.arrays:
            path = f"{part}/{array.name}"
            if array.dtype == target.array(path).dtype:
                continue
            cosines = [_cosines(source.read(path, i), target.read(path, i)) for i in chosen]
            values = np.concatenate([np.ones(0 if cosines else 1), *cosines])
            found[path] = {"cosine_mean": float(values.mean()), "cosine_worst": float(values.min())}
    return found


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the vectors [..., C], flat; zeros are left out."""
    a, b = (x.astype(np.float64).reshape(-1, x.shape[-1]) for x in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(1)[norms > 0] / norms[norms > 0]
