"""One sealed segment of a cache: numpy in, no zarr, one positioned read per record."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from regionspot_cache.datasets.images import ExifRule
from regionspot_cache.errors import DamageError, IdentityError, IncompleteError, InputError
from regionspot_cache.store.identity import (
    CacheRecord,
    PartRecord,
    read_part,
    require_fingerprint,
    require_offsets,
)
from regionspot_cache.store.layout import STATUS_OK, STATUS_REASONS, PartSpec, part_arrays
from regionspot_cache.store.manifest import Manifest, SealedPart, sealed_sums
from regionspot_cache.store.objects import Objects
from regionspot_cache.store.plan import PartitionPlan
from regionspot_cache.store.plan_store import StoredPlan
from regionspot_cache.store.records import damage
from regionspot_cache.store.shards import Check, ChunkError, StoredArray
from regionspot_cache.store.storage import SCALE, Stored


def open_segment(
    objects: Objects,
    parts: Sequence[str] | None,
    expect: Mapping[str, Mapping[str, Any]],
    *,
    check: Check,
) -> "Segment":
    """A segment with the features of some parts, or of all that are sealed; errors as of `open_cache`."""
    record = CacheRecord.read(objects)
    require_offsets(record, objects)
    manifest = None if parts == () else Manifest.read(objects, record.shape)
    if manifest is not None and manifest.plan_digest != record.plan_digest:
        raise IdentityError(
            f"the manifest of {objects.url} was sealed for another plan",
            "a manifest of this cache",
            f"delete {objects.url} and extract again",
        )
    found = {} if manifest is None else manifest.parts
    sealed: dict[str, SealedPart] = {}
    records: dict[str, PartRecord] = {}
    if parts is None and not found:
        raise incomplete(objects.url, "no complete part")
    for part in found if parts is None else parts:
        if part not in found:
            complete = ", ".join(found) or "none"
            raise incomplete(objects.url, f"no complete part {part}; complete: {complete}")
        known = read_part(objects, record, part)
        if known is None or known.digest != found[part].digest:
            raise DamageError(
                f"the manifest of {objects.url} does not belong to its part {part}",
                "the part that was sealed",
                f"rs-cache extract --cache {objects.url} --part {part} completes and seals it",
            )
        if part in expect:
            require_fingerprint(known.spec, expect[part], objects.url)
        sealed[part], records[part] = found[part], known
    return Segment(objects, record, records, sealed, check=check)


def incomplete(url: str, lacking: str) -> IncompleteError:
    """The error of a cache that lacks something until extraction goes on."""
    return IncompleteError(
        f"{url} has {lacking}",
        "a part whose partitions are all committed and sealed",
        f"rs-cache extract --cache {url} with its --dataset and --backbone continues",
    )


class Segment:
    """Records of one segment by position i in 0..M-1, slot i % S of partition i // S; see `Cache`.

    Reading is safe from several threads and after a fork.
    """

    def __init__(
        self,
        objects: Objects,
        record: CacheRecord,
        records: Mapping[str, PartRecord],
        sealed: Mapping[str, SealedPart],
        *,
        check: Check,
    ) -> None:
        self._objects, self._sealed, self._plan = objects, sealed, StoredPlan(objects, record)
        self.plan_digest, self.source, self.image_root = record.plan_digest, record.source, record.image_root
        self.exif: ExifRule = record.identity["exif"]
        self.augmentation: dict[str, Any] | None = record.identity["augmentation"]
        self.dropped = dict(record.dropped)
        self.num_images, self.partition_size = record.shape.num_images, record.shape.partition_size
        self.num_partitions = record.shape.num_partitions
        self.offsets = self._load_offsets()
        self.parts: dict[str, PartSpec] = {part: found.spec for part, found in records.items()}
        self._arrays: dict[str, StoredArray] = {}
        for part, found in records.items():
            sums = sealed_sums(objects, found, sealed[part], record.shape)
            for name, array in part_arrays(found.spec, record.shape).items():
                of_array = partial(sums, array)
                self._arrays[f"{part}/{name}"] = StoredArray(objects.open, array, of_array, check=check)
        arrays = ((part, array) for part, spec in self.parts.items() for array in spec.arrays)
        self._scaled = {f"{part}/{array.name}" for part, array in arrays if array.storage.scaled}
        self._status = {part: _status_codes(sealed[part], self.num_images) for part in records}

    def partition(self, index: int) -> PartitionPlan:
        return self._plan.partition(index)

    def image(self, i: int) -> tuple[int | str, str]:
        if not 0 <= i < self.num_images:
            raise InputError(f"image {i}", f"0 to {self.num_images - 1}", "a position that holds an image")
        return self._plan.image_name(*divmod(i, self.partition_size))

    @cached_property
    def file_names(self) -> list[str]:
        return [name for p in range(self.num_partitions) for name in self._plan.texts(p)[1::2]]

    @cached_property
    def views(self) -> np.ndarray | None:
        return self._of_views("views")

    @cached_property
    def origins(self) -> np.ndarray | None:
        return self._of_views("origins")

    @cached_property
    def frames(self) -> np.ndarray | None:
        return self._of_views("frames")

    def _of_views(self, name: str) -> np.ndarray | None:
        return self._plan.load(name, self._plan.image_counts) if self._plan.shape.views else None

    @cached_property
    def all_boxes(self) -> np.ndarray:
        starts = np.append(np.arange(self.num_partitions) * self.partition_size, self.num_images)
        return self._plan.load("boxes", np.diff(self.offsets[starts]))

    @cached_property
    def all_sizes(self) -> np.ndarray:
        return self._plan.load("sizes", self._plan.image_counts)

    def _load_offsets(self) -> np.ndarray:
        """int64 [M + 1] from the stored int32 [P, S + 1], which start at 0 in each partition."""
        counts = self._plan.image_counts + 1
        stored = self._plan.load("offsets", counts).astype(np.int64)
        per_image = np.delete(np.diff(stored), np.cumsum(counts)[:-1] - 1)
        return np.concatenate([[0], np.cumsum(per_image)])

    @property
    def counts(self) -> dict[str, Counter[str]]:
        return {part: sealed.counts(self.num_images) for part, sealed in self._sealed.items()}

    def ok_mask(self, part: str) -> np.ndarray:
        return self._status[part] == STATUS_OK

    def revision(self, part: str, partition: int) -> str:
        """As of `Cache.revision`, of a partition of this segment."""
        return self._sealed[part].markers[partition]

    def raw_images(self, path: str, indices: Sequence[int]) -> Stored:
        self._require_ok(indices, path.partition("/")[0])
        # Ascending, so that neighbours are read together: (position, row of the result).
        order = sorted(zip(np.asarray(indices, np.int64).tolist(), range(len(indices)), strict=True))
        places = [divmod(position, self.partition_size) for position, _ in order]
        rows = [row for _, row in order]
        values = self._read_items(path, places, rows)
        return Stored(values, self._read_items(path + SCALE, places, rows) if path in self._scaled else None)

    def raw_boxes(self, path: str, i: int) -> Stored:
        self._require_ok([i], path.partition("/")[0])
        partition = i // self.partition_size
        first = self.offsets[partition * self.partition_size]
        start, stop = int(self.offsets[i] - first), int(self.offsets[i + 1] - first)
        try:
            values = self._stored(path).read_rows(partition, start, stop)
            if path not in self._scaled:
                return Stored(values)
            return Stored(values, self._stored(path + SCALE).read_rows(partition, start, stop))
        except ChunkError as error:
            raise self._damage(error, i) from None

    def stamps(self, part: str) -> np.ndarray:
        stored, found = self._stored(f"{part}/file"), np.zeros((self.num_images, 3), np.int64)
        for p, count in enumerate(self._plan.image_counts.tolist()):
            rows = slice(p * self.partition_size, p * self.partition_size + count)
            good = self.ok_mask(part)[rows]
            try:
                found[rows] = np.where(good[:, None], stored.read_needed(p, good), 0)
            except ChunkError as error:
                raise self._damage(error, rows.start) from None
        return found

    def _stored(self, path: str) -> StoredArray:
        if path not in self._arrays:
            raise InputError(
                f"the cache at {self._objects.url} has no opened array {path}",
                f"one of {sorted(self._arrays)}",
                f"rs-cache info {self._objects.url}",
            )
        return self._arrays[path]

    def _read_items(self, path: str, places: list[tuple[int, int]], rows: list[int]) -> np.ndarray:
        """Records of an array with one image an inner chunk, [k, *item_shape]; places[i] goes to rows[i]."""
        stored, array = self._stored(path), self._stored(path).array
        out = np.empty((len(rows), *array.item_shape), array.dtype)
        pieces = out.view(np.uint8).reshape(len(rows), array.chunk_bytes)
        try:
            stored.read_chunks(places, [pieces[row] for row in rows])
        except ChunkError as error:
            raise self._damage(error, error.partition * self.partition_size + error.chunk) from None
        return out

    def _require_ok(self, indices: Sequence[int], part: str) -> None:
        if part not in self._status:
            raise InputError(
                f"part {part} was not opened", f"one of {', '.join(self._status)}", "open the cache with it"
            )
        positions = np.asarray(indices, np.int64)
        outside = positions[(positions < 0) | (positions >= self.num_images)]
        if len(outside):
            raise InputError(f"image {outside[0]}", f"0 to {self.num_images - 1}", "a position of this cache")
        codes = self._status[part][positions]
        failed = np.flatnonzero(codes != STATUS_OK)
        if len(failed):
            i = int(indices[failed[0]])
            image_id, file_name = self.image(i)
            reason = STATUS_REASONS[int(codes[failed[0]])]
            raise InputError(
                f"image {image_id} ({file_name}) has no {part} features: {reason}",
                "an image that was extracted",
                "leave it out (Cache.ok), or repair the image and run rs-cache extract again",
            )

    def _damage(self, error: ChunkError, i: int) -> DamageError:
        image_id, file_name = self.image(i)
        found = f"image {image_id} ({file_name}): {error}"
        return damage(found, "the record that was committed", self._objects.url)


def _status_codes(sealed: SealedPart, num_images: int) -> np.ndarray:
    codes = np.full(num_images, STATUS_OK, np.uint8)
    for position, code in sealed.failed:
        codes[position] = code
    return codes
