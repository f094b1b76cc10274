"""Checks of single objects and partitions, for `verify`."""

from collections import Counter
from collections.abc import Container
from typing import NamedTuple

import numpy as np

from regionspot_cache.errors import DamageError
from regionspot_cache.store.identity import PartRecord
from regionspot_cache.store.layout import STATUS_OK, STATUS_REASONS, StackedArray, part_arrays
from regionspot_cache.store.manifest import Marker, SealedPart, marker_key
from regionspot_cache.store.objects import BytesHandle, Handle, Objects
from regionspot_cache.store.plan import PartitionPlan
from regionspot_cache.store.plan_store import StoredPlan
from regionspot_cache.store.publish import row_mask
from regionspot_cache.store.records import digest
from regionspot_cache.store.shards import ChunkError, ObjectEntry, StoredArray, recorded_sums


class Problem(NamedTuple):
    """One thing that is wrong.

    Attributes:
        key: the object (file) it is about.
        kind: "missing", "size", "checksum", "index", "record", "status", "identity", "foreign" (damage);
            "uncommitted", "unsealed" (unfinished).
        detail: what was found.
        part, partition, array: where, as far as it applies.
        segment: its folder in the cache; "" for the first.
    """

    key: str
    kind: str = ""
    detail: str = ""
    part: str | None = None
    partition: int | None = None
    array: str | None = None
    segment: str = ""

    def __str__(self) -> str:
        return f"{self.key}: {self.kind}: {self.detail}"

    @property
    def is_damage(self) -> bool:
        """Whether running the extraction again is not simply going to finish it."""
        return self.kind not in ("uncommitted", "unsealed")


def check_object(objects: Objects, key: str, entry: ObjectEntry, full: bool, where: Problem) -> list[Problem]:
    """Compare an object with its recorded bytes and, in full, its SHA-256."""
    try:
        size = objects.size(key)
        if size is None:
            return [where._replace(kind="missing", detail="the object does not exist")]
        if size != entry.bytes:
            return [where._replace(kind="size", detail=f"{size} bytes instead of {entry.bytes}")]
        if full and digest(objects.read(key)) != entry.sha256:
            return [where._replace(kind="checksum", detail="its SHA-256 is not the recorded one")]
    except DamageError as error:
        return [where._replace(kind="missing", detail=error.found)]
    return []


def foreign(objects: Objects, folder: str, known: Container[str], part: str | None = None) -> list[Problem]:
    """Objects that do not belong there."""
    keys = [key for key, _ in objects.list(folder) if key not in known]
    return [Problem(key, "foreign", "no part of the cache", part) for key in keys]


def check_stored_sums(stored: StoredArray, partition: int, where: Problem) -> list[Problem]:
    """Compare the checksums of a few records of one partition with the recorded ones: no swap goes unseen."""
    try:
        present = np.flatnonzero(stored.present(partition))
        some = sorted({int(present[i]) for i in (0, len(present) // 2, -1)}) if len(present) else []
        stored.compare_stored_sums(partition, some)
    except (ChunkError, DamageError) as error:
        return [where._replace(kind="record", detail=str(error).partition("\n")[0])]
    return []


class PartCheck:
    """Checks one part. `partition` may run in several threads, each number once; the rest comes after."""

    def __init__(self, objects: Objects, plan: StoredPlan, record: PartRecord, full: bool) -> None:
        self.part, self._full = record.spec.name, full
        self._objects, self._plan, self._record = objects, plan, record
        self._arrays = part_arrays(record.spec, plan.shape)
        self._sealable: dict[int, tuple[str, tuple[tuple[int, int], ...]]] = {}

    def partition(self, index: int) -> list[Problem]:
        """Problems of one partition."""
        key = marker_key(self.part, index)
        where = Problem(key, part=self.part, partition=index)
        try:
            data = self._objects.read(key)
            marker = Marker.from_bytes(data, key, self._plan.shape)
        except FileNotFoundError:
            return [where._replace(kind="uncommitted", detail="no marker")]
        except DamageError as error:
            return [where._replace(kind="checksum", detail=error.found)]
        if not marker.is_of(self._record, index):
            return [where._replace(kind="identity", detail="the marker belongs to something else")]
        self._sealable[index] = (digest(data), marker.failed)
        try:
            plan = self._plan.partition(index)
        except DamageError as error:
            return [where._replace(kind="record", detail=f"cannot be checked: {error.found}")]
        return self._against_marker(marker, plan, where)

    def surroundings(self) -> list[Problem]:
        """Problems of the part's zarr metadata, and objects that do not belong there."""
        problems = []
        for key, entry in self._record.objects.items():
            where = Problem(key, part=self.part)
            problems += check_object(self._objects, key, entry, self._full, where)
        partitions = range(self._plan.num_partitions)
        known = {array.key(p) for array in self._arrays.values() for p in partitions}
        known |= {marker_key(self.part, p) for p in partitions} | set(self._record.objects)
        for folder in (self.part, f"markers/{self.part}"):
            problems += foreign(self._objects, folder, known, self.part)
        return problems

    def as_sealed(self) -> SealedPart:
        """How the manifest should record this part."""
        return SealedPart.of(self._record, self._plan.shape.partition_size, self._sealable)

    def _against_marker(self, marker: Marker, plan: PartitionPlan, where: Problem) -> list[Problem]:
        status = np.full(plan.num_images, STATUS_OK, np.uint8)
        for slot, code in marker.failed:
            status[slot] = code
        problems = []
        if Counter(STATUS_REASONS[int(code)] for code in status) != Counter(marker.counts):
            problems.append(where._replace(kind="status", detail="the counts of the marker do not add up"))
        for name, array in self._arrays.items():
            needed = np.ones(len(status), bool) if name == "status" else row_mask(array.ragged, plan, status)
            entry = marker.objects.get(array.key(plan.index))
            at = where._replace(array=name, key=array.key(plan.index))
            problems += self._array(array, entry, needed, at, status if name == "status" else None)
        return problems

    def _array(
        self,
        array: StackedArray,
        entry: ObjectEntry | None,
        needed: np.ndarray,
        where: Problem,
        values: np.ndarray | None,
    ) -> list[Problem]:
        """Problems of one stored object; `values` are what it must hold, where that is known."""
        if entry is None:
            if needed.any():
                return [where._replace(kind="missing", detail="the marker does not list the object")]
            if self._objects.size(where.key) is not None:
                return [where._replace(kind="foreign", detail="the marker does not list the object")]
            return []
        problems = check_object(self._objects, where.key, entry, False, where)
        if problems:
            return problems
        handle: Handle = self._objects.open(where.key)
        if self._full:
            data = self._objects.read(where.key)
            if digest(data) != entry.sha256:
                problems.append(where._replace(kind="checksum", detail="its SHA-256 is not the recorded one"))
            handle = BytesHandle(data)
        sums = recorded_sums({where.key: entry}, array)
        stored = StoredArray(lambda _: handle, array, sums)
        return problems + _record_problems(stored, needed, where, values, self._full)


def _record_problems(
    stored: StoredArray, needed: np.ndarray, where: Problem, values: np.ndarray | None, full: bool
) -> list[Problem]:
    """Check the index of a stored object: exactly the needed inner chunks; some checksums, or all records."""
    partition, array = where.partition or 0, stored.array
    try:
        present = stored.present(partition)
        wanted = np.zeros(array.chunks_per_partition, bool)
        wanted[np.flatnonzero(needed) // array.rows] = True
        wrong = np.flatnonzero(present != wanted)
        if len(wrong):
            state = "missing from" if wanted[wrong[0]] else "unexpected in"
            return [where._replace(kind="index", detail=f"record {wrong[0]} is {state} the object")]
        if not full:
            return check_stored_sums(stored, partition, where)
        rows = stored.read_needed(partition, needed)
    except (ChunkError, DamageError) as error:
        return [where._replace(kind="record", detail=str(error).partition("\n")[0])]
    if values is not None and not np.array_equal(rows, values):
        return [where._replace(kind="status", detail="the stored status is not the one of the marker")]
    return []
