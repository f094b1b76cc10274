"""Proof that a cache is whole, or the list of everything that is not."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

from regionspot_cache.errors import DamageError, RegionSpotError
from regionspot_cache.store.checks import PartCheck, Problem, check_object, check_stored_sums, foreign
from regionspot_cache.store.identity import (
    CACHE_KEY,
    CacheRecord,
    PartRecord,
    offset_keys,
    part_key,
    part_names,
)
from regionspot_cache.store.layout import plan_arrays
from regionspot_cache.store.manifest import MANIFEST_KEY, Manifest, SealedPart
from regionspot_cache.store.objects import Objects, open_objects
from regionspot_cache.store.plan_store import StoredPlan
from regionspot_cache.store.reader import open_as_it_is
from regionspot_cache.store.segments import (
    SEGMENTS_KEY,
    UPDATE_KEY,
    UPDATES,
    Segments,
    UpdateRecord,
    segment_places,
    within,
)
from regionspot_cache.store.shards import StoredArray, recorded_sums

_WORKERS = 4  # each holds one stored object in memory; hashing releases the interpreter


def verify(
    path: str | Path,
    level: Literal["fast", "full"] = "fast",
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Problem]:
    """Every problem of a cache; "uncommitted" and "unsealed" are unfinished work, every other kind is damage.

    Args:
        path: folder or URL.
        level: "fast" reads the markers and the index of every stored object: sizes, presence of every record.
            "full" also reads every byte: a single flipped byte anywhere is found and its file named.
        progress: called with (partitions checked, partitions in all).

    Raises:
        MissingFileError: there is no cache.
        IdentityError: a cache of another format version.
    """
    root, problems = open_objects(path), []
    for key, read in ((SEGMENTS_KEY, Segments.read), (UPDATE_KEY, UpdateRecord.read)):
        try:
            read(root)
        except DamageError as error:
            problems.append(Problem(key, "checksum", error.found))
    if problems:
        return problems
    names = [place.removeprefix(root.url).strip("/") for place in segment_places(path)]
    for name in names:
        place = open_objects(within(root.url, name))
        if name and place.size(CACHE_KEY) is None:
            problems.append(Problem(f"{name}/{CACHE_KEY}", "missing", "a segment", segment=name))
            continue
        found = _segment_problems(place, level == "full", progress)
        problems += [p._replace(segment=name, key=f"{name}/{p.key}".lstrip("/")) for p in found]
    return [*problems, *_between_segments(root, names, whole=not problems)]


def _between_segments(root: Objects, names: list[str], *, whole: bool) -> Iterator[Problem]:
    """What is wrong with the segments together; of `whole` ones also whether they belong together."""
    update = UpdateRecord.read(root)
    if update is not None:
        yield Problem(UPDATE_KEY, "unsealed", "an update is not finished")
    known = {*names, update.name if update else ""}
    for key, _ in root.list(UPDATES):
        if "/".join(key.split("/")[:2]) not in known:
            yield Problem(key, "foreign", f"of no segment in {SEGMENTS_KEY}")
    try:
        if whole:
            open_as_it_is(root.url, ())
    except RegionSpotError as error:
        yield Problem(SEGMENTS_KEY, "identity", error.found)


def _segment_problems(
    objects: Objects, full: bool, progress: Callable[[int, int], None] | None
) -> list[Problem]:
    try:
        record = CacheRecord.read(objects)
    except DamageError as error:
        return [Problem(CACHE_KEY, "checksum", error.found)]
    problems = _plan_problems(objects, record, full)
    if {problem.key for problem in problems}.intersection(offset_keys(record)):
        return problems  # how many images there are is not certain
    plan = StoredPlan(objects, record)
    checks: list[PartCheck] = []
    for part in part_names(objects):
        try:
            found = PartRecord.read(objects, part)
        except DamageError as error:
            problems.append(Problem(part_key(part), "checksum", error.found, part))
            continue
        if found is None:
            continue
        if found.plan_digest != record.plan_digest:
            problems.append(Problem(part_key(part), "identity", "it is of another plan", part))
            continue
        checks.append(PartCheck(objects, plan, found, full))
    problems += _partition_problems(checks, record.shape.num_partitions, progress)
    for check in checks:
        problems += check.surroundings()
    problems += _manifest_problems(objects, record, checks)
    return problems + foreign(objects, "parts", {part_key(part) for part in part_names(objects)})


def _plan_problems(objects: Objects, record: CacheRecord, full: bool) -> list[Problem]:
    problems = []
    for key, entry in record.objects.items():
        array = key.split("/")[1] if key.count("/") > 1 else None
        problems += check_object(objects, key, entry, full, Problem(key, array=array))
    damaged = {problem.key for problem in problems}
    if damaged.intersection(offset_keys(record)):
        return problems
    for name, array in plan_arrays(record.shape).items():
        stored = StoredArray(objects.open, array, recorded_sums(record.objects, array))
        for shard in range(array.shards):
            key, last = array.key(shard), min(array.partitions, (shard + 1) * array.group) - 1
            where = Problem(key, array=name)
            if key in record.objects and key not in damaged:
                for partition in {shard * array.group, last}:
                    problems += check_stored_sums(stored, partition, where)
    return problems + foreign(objects, "plan", record.objects)


def _partition_problems(
    checks: list[PartCheck], partitions: int, progress: Callable[[int, int], None] | None
) -> list[Problem]:
    work = [(check, partition) for check in checks for partition in range(partitions)]
    problems = []
    with ThreadPoolExecutor(_WORKERS) as pool:
        for done, found in enumerate(pool.map(lambda item: item[0].partition(item[1]), work), start=1):
            problems += found
            if progress:
                progress(done, len(work))
    return problems


def _manifest_problems(objects: Objects, record: CacheRecord, checks: list[PartCheck]) -> Iterator[Problem]:
    problem = partial(Problem, MANIFEST_KEY)
    try:
        manifest = Manifest.read(objects, record.shape)
    except DamageError as error:
        yield problem("checksum", error.found)
        return
    if manifest is not None and manifest.plan_digest != record.plan_digest:
        yield problem("identity", "the manifest was sealed for another cache.json")
    sealed: dict[str, SealedPart] = {} if manifest is None else {**manifest.parts}
    for check in checks:
        part = sealed.pop(check.part, None)
        if part is None:
            yield problem("unsealed", f"part {check.part} is not in the manifest", check.part)
        elif part != check.as_sealed():
            yield problem("identity", f"part {check.part} is not the one that was sealed", check.part)
    for name in sealed:
        yield problem("missing", f"part {name} was sealed and is gone", name)
