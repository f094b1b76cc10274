"""The writer's view of a cache: what is missing, committing partitions, retrying failures, sealing."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np

from regionspot_cache.errors import IncompleteError, InputError
from regionspot_cache.store import publish
from regionspot_cache.store.identity import CacheRecord, PartRecord, part_names, read_part, require_offsets
from regionspot_cache.store.layout import PartSpec, StackedArray, part_arrays
from regionspot_cache.store.manifest import (
    MANIFEST_KEY,
    Manifest,
    Marker,
    SealedPart,
    marker_key,
    read_marker,
    read_markers,
)
from regionspot_cache.store.objects import Objects, WholeObjects, open_objects
from regionspot_cache.store.plan import PartitionPlan
from regionspot_cache.store.plan_store import StoredPlan
from regionspot_cache.store.publish import Features, row_mask, stored_rows
from regionspot_cache.store.records import damage, to_record
from regionspot_cache.store.shards import ChunkError, StoredArray, recorded_sums

Outcome = Literal["committed", "lost race"]


def open_writer(path: str | Path) -> "CacheWriter":
    """A writer for an existing cache; cheap, so every worker opens its own.

    MissingFileError when there is no cache, DamageError when its records are damaged.
    """
    return CacheWriter(open_objects(path))


class CacheWriter:
    """Adds partitions to a planned cache; several may do so at once. A pickled one opens it again."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.record = CacheRecord.read(objects)
        require_offsets(self.record, objects)
        self.plan, self.num_partitions = StoredPlan(objects, self.record), self.record.shape.num_partitions
        self._records = self._read_parts()
        self.partition = lru_cache(maxsize=2)(self.plan.partition)

    def __reduce__(self) -> tuple:
        return open_writer, (self.objects.url,)

    @property
    def parts(self) -> dict[str, PartSpec]:
        """`PartSpec` by name."""
        return {name: record.spec for name, record in self._records.items()}

    def markers(self, part: str) -> dict[int, Marker]:
        """Markers of all committed partitions of a part: counts, failures, timings, bytes."""
        return {p: marker for p, (marker, _) in self._markers(part).items()}

    def marker(self, part: str, partition: int) -> Marker | None:
        """Marker of one partition; None while it is not committed."""
        found = self._read_marker(part, partition)
        return found[0] if found else None

    def pending(self, part: str) -> list[int]:
        """Partitions without a valid marker, in order."""
        done = self._markers(part)
        return [p for p in range(self.num_partitions) if p not in done]

    def failed(self, part: str) -> dict[int, list[int]]:
        """Slots of failed images by committed partition."""
        markers = self.markers(part)
        return {p: [slot for slot, _ in marker.failed] for p, marker in markers.items() if marker.failed}

    def commit(
        self,
        part: str,
        partition: int,
        arrays: Mapping[str, Features],
        status: np.ndarray,
        *,
        files: np.ndarray | None = None,
        details: Mapping[int, str] | None = None,
        timings: Mapping[str, float] | None = None,
    ) -> Outcome:
        """Store the features of one whole partition, durably, or nothing at all.

        Args:
            part, partition: name and number.
            arrays: by array name, float32 [b, D] (ragged; all boxes in plan order) or [s, N, C]; or `Stored`
                values of those shapes. Rows of failed images are ignored.
            status: uint8 [s], `STATUS_CODES`.
            files: int64 [s, 3], `datasets.images.FileStamp` of every image, or zeros.
            details: more than the reason, of failed images by slot.
            timings: seconds by step; "write" (encoding, syncing, reading back) is added here.

        Returns:
            "lost race" when the partition was committed by someone else; nothing is changed then.

        Raises:
            InputError: arrays that do not fit the plan or are not finite.
            IdentityError: the part was rebuilt meanwhile.
            RegionSpotError: the disk is full or the folder cannot be written; nothing is committed.
        """
        plan = self.partition(partition)
        if self._read_marker(part, partition):
            return "lost race"
        rows = stored_rows(self._part(part).spec, plan, arrays, status, files)
        return self._publish(part, plan, rows, details, timings, replaces=None)

    def recommit(
        self,
        part: str,
        partition: int,
        slots: Sequence[int],
        arrays: Mapping[str, Features],
        status: np.ndarray,
        *,
        files: np.ndarray | None = None,
        details: Mapping[int, str] | None = None,
        timings: Mapping[str, float] | None = None,
    ) -> Outcome:
        """Replace failed images of a committed partition; records of the others are kept bit for bit.

        The part is taken out of the manifest until `seal` is called again. As `commit`, but of the k failed
        `slots` tried again, ascending: arrays [k, N, C] or the boxes of these slots in order, status
        and files [k]. InputError also for a slot that has not failed.
        """
        spec, plan = self._part(part).spec, self.partition(partition)
        found = self._read_marker(part, partition)
        known = {slot for slot, _ in found[0].failed} if found else set()
        if found is None or not known.issuperset(slots) or sorted(set(slots)) != list(slots):
            raise InputError(
                f"retry of images {list(slots)} of partition {partition} of part {part}",
                f"failed images of a committed partition, ascending: {sorted(known)}",
                "take them from CacheWriter.failed",
            )
        rows = self.read_partition(part, partition)
        patch = stored_rows(spec, _chosen(plan, slots), arrays, status, files)
        boxes, layouts = _box_rows(plan, slots), part_arrays(spec, self.record.shape)
        for name, values in patch.items():
            rows[name][boxes if layouts[name].ragged else list(slots)] = values
        return self._publish(part, plan, rows, details, timings, replaces=found[1])

    def read_partition(self, part: str, partition: int) -> dict[str, np.ndarray]:
        """Rows of every array of a committed partition as they are stored, the fill value for failed images.

        DamageError when a record is missing or damaged, or the partition is not committed.
        """
        plan, marker = self.partition(partition), self.marker(part, partition)
        layouts = part_arrays(self._part(part).spec, self.record.shape)
        # Whole objects, read afresh: an open handle may be on an object that was replaced since.
        fresh, entries = WholeObjects(self.objects).open, marker.objects if marker else {}

        def stored(array: StackedArray) -> StoredArray:
            return StoredArray(fresh, array, recorded_sums(entries, array))

        try:
            status = stored(layouts.pop("status")).read_rows(partition, 0, plan.num_images)
            rows = {"status": status}
            for name, array in layouts.items():
                mask = row_mask(array.ragged, plan, status)
                rows[name] = stored(array).read_needed(partition, mask)
        except ChunkError as error:
            raise damage(str(error), "a record for every image") from None
        return rows

    def claim(self, partition: int, *, wait: bool = False) -> AbstractContextManager[Any]:
        """The work on a partition; given up with a killed process. BlockingIOError where it is taken."""
        return self.objects.exclusive(f"work-{partition:06d}", wait=wait, long=True)

    def discard(self, part: str, partition: int) -> None:
        """Make a partition uncommitted, for example because it is damaged; extraction then does it again."""
        with self.objects.exclusive(_lock_name(part, partition)):
            publish.withdraw(self.objects, self.record, part, partition)

    def seal(self) -> Manifest:
        """Put every complete part into the manifest, the only way in for readers; IncompleteError without."""
        with self.objects.exclusive("manifest") as stage:
            self._records = self._read_parts()  # another run may have rebuilt or added one
            found = {name: self._markers(name) for name in self._records}
            complete = {n: markers for n, markers in found.items() if len(markers) == self.num_partitions}
            if not complete:
                states = ", ".join(
                    f"{name} {len(done)} of {self.num_partitions}" for name, done in found.items()
                )
                raise IncompleteError(
                    f"the cache at {self.objects.url} is not complete: {states or 'no part'} partitions",
                    "at least one part with every partition committed",
                    f"rs-cache extract --cache {self.objects.url} continues where it stopped",
                )
            parts = {name: self._sealed(name, markers) for name, markers in complete.items()}
            manifest = Manifest(plan_digest=self.record.plan_digest, parts=parts)
            data = to_record(manifest)
            if self.objects.size(MANIFEST_KEY) != len(data) or self.objects.read(MANIFEST_KEY) != data:
                stage.put(MANIFEST_KEY, data)
                stage.publish()
        return manifest

    def collect_garbage(self) -> int:
        """Remove what killed writers left staged; returns the number of files. Running ones keep theirs."""
        return self.objects.sweep()

    def _sealed(self, part: str, markers: Mapping[int, tuple[Marker, str]]) -> SealedPart:
        found = {p: (digest, marker.failed) for p, (marker, digest) in markers.items()}
        return SealedPart.of(self._part(part), self.record.shape.partition_size, found)

    def _publish(
        self,
        part: str,
        plan: PartitionPlan,
        rows: Mapping[str, np.ndarray],
        details: Mapping[int, str] | None,
        timings: Mapping[str, float] | None,
        *,
        replaces: str | None,
    ) -> Outcome:
        """Stage, then swap objects and marker while holding the partition's lock.

        `replaces` is the digest of the marker that this commit follows; None for a first commit.
        """
        status, index, record = rows["status"], plan.index, self._part(part)
        with self.objects.exclusive(_lock_name(part, index)) as stage:
            publish.require_current_part(self.objects, record)
            found = self._read_marker(part, index)
            if (found[1] if found else None) != replaces:
                return "lost race"
            started = perf_counter()
            arrays = part_arrays(record.spec, self.record.shape)
            entries, empty = publish.put_objects(stage, arrays, index, rows)
            spent = {**(timings or {}), "write": perf_counter() - started}
            marker = publish.build_marker(record, plan, status, entries, details or {}, spent)
            if self.objects.size(marker_key(part, index)) is not None:
                publish.withdraw(self.objects, self.record, part, index)
            stage.publish()
            for key in empty:
                stage.delete(key)
            won = stage.put_if_absent(marker_key(part, index), to_record(marker))
        return "committed" if won else "lost race"

    def _read_marker(self, part: str, partition: int) -> tuple[Marker, str] | None:
        return read_marker(self.objects, self._part(part), self.record.shape, partition)

    def _markers(self, part: str) -> dict[int, tuple[Marker, str]]:
        return read_markers(self.objects, self._part(part), self.record.shape, range(self.num_partitions))

    def _read_parts(self) -> dict[str, PartRecord]:
        names = part_names(self.objects)
        found = {name: read_part(self.objects, self.record, name) for name in names}
        return {name: record for name, record in found.items() if record}

    def _part(self, part: str) -> PartRecord:
        if part not in self._records:
            raise InputError(
                f"the cache at {self.objects.url} has no part {part}",
                f"one of {sorted(self._records)}",
                f"rs-cache extract --cache {self.objects.url} --part {part}",
            )
        return self._records[part]


def _lock_name(part: str, partition: int) -> str:
    return f"{part}-{partition:06d}"


def _box_rows(plan: PartitionPlan, slots: Sequence[int]) -> np.ndarray:
    ranges = [np.arange(plan.offsets[slot], plan.offsets[slot + 1]) for slot in slots]
    return np.concatenate(ranges) if ranges else np.empty(0, np.int64)


def _chosen(plan: PartitionPlan, slots: Sequence[int]) -> PartitionPlan:
    rows = _box_rows(plan, slots)
    counts = np.diff(plan.offsets)[list(slots)]
    return PartitionPlan(
        index=plan.index,
        image_ids=[plan.image_ids[slot] for slot in slots],
        file_names=[plan.file_names[slot] for slot in slots],
        sizes=plan.sizes[list(slots)],
        boxes=plan.boxes[rows],
        offsets=np.cumsum([0, *counts], dtype=np.int32),
        views=plan.views and plan.views.take(list(slots)),
    )
