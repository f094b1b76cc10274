"""One sealed segment of a cache: numpy in, no zarr, one positioned read per record."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from regionspot_cache.errors import DamageError, IdentityError, IncompleteError, InputError
from regionspot_cache.store.identity import (
    CacheRecord,
    PartRecord,
    read_part,
    require_fingerprint,
    require_offsets,
)
from regionspot_cache.store.layout import STATUS_OK, STATUS_REASONS, PartSpec, part_arrays
from regionspot_cache.store.manifest import Manifest, SealedPart
from regionspot_cache.store.objects import Objects
from regionspot_cache.store.planned import PlannedImages
from regionspot_cache.store.proof import SealedSums
from regionspot_cache.store.shards import ChunkError, StoredArray
from regionspot_cache.store.storage import SCALE, Stored


def open_segment(
    objects: Objects,
    parts: Sequence[str] | None,
    expect: Mapping[str, Mapping[str, Any]],
    *,
    check: bool,
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


class Segment(PlannedImages):
    """Records of one segment by position i in 0..M-1.

    Reading is safe from several threads and after a fork.

    Attributes:
        parts: `PartSpec` by name.
    """

    def __init__(
        self,
        objects: Objects,
        record: CacheRecord,
        records: Mapping[str, PartRecord],
        sealed: Mapping[str, SealedPart],
        *,
        check: bool,
    ) -> None:
        super().__init__(objects, record)
        self._sealed, self._check = sealed, check
        self.parts: dict[str, PartSpec] = {part: found.spec for part, found in records.items()}
        self._arrays: dict[str, StoredArray] = {}
        for part, found in records.items():
            arrays = part_arrays(found.spec, record.shape)
            sums = SealedSums(objects, found, sealed[part], arrays, record.shape)
            for name, array in arrays.items():
                of_array = partial(sums.of, name)
                self._arrays[f"{part}/{name}"] = StoredArray(objects.open, array, of_array, check=check)
        arrays = ((part, array) for part, spec in self.parts.items() for array in spec.arrays)
        self._scaled = {f"{part}/{array.name}" for part, array in arrays if array.storage.scaled}
        self._status = {part: _status_codes(sealed[part], record.shape.num_images) for part in records}

    @property
    def counts(self) -> dict[str, Counter[str]]:
        """Images by outcome ("ok" or a failure reason) of each part."""
        return {part: sealed.counts(self.num_images) for part, sealed in self._sealed.items()}

    def ok(self, i: int, part: str) -> bool:
        """Whether image i has features in a part."""
        return bool(self._status[part][i] == STATUS_OK)

    def ok_mask(self, part: str) -> np.ndarray:
        """bool [M]: which images have features in a part."""
        return self._status[part] == STATUS_OK

    def raw_images(self, path: str, indices: Sequence[int]) -> Stored:
        """As of `Cache.raw_images`."""
        self._require_ok(indices, path.partition("/")[0])
        # Ascending, so that neighbours are read together: (position, row of the result).
        order = sorted(zip(np.asarray(indices, np.int64).tolist(), range(len(indices)), strict=True))
        places = [divmod(position, self.partition_size) for position, _ in order]
        rows = [row for _, row in order]
        values = self._read_items(path, places, rows)
        return Stored(values, self._read_items(path + SCALE, places, rows) if path in self._scaled else None)

    def raw_boxes(self, path: str, i: int) -> Stored:
        """As of `Cache.raw_boxes`."""
        self._require_ok([i], path.partition("/")[0])
        partition = i // self.partition_size
        first = self._offsets[partition * self.partition_size]
        start, stop = int(self._offsets[i] - first), int(self._offsets[i + 1] - first)
        try:
            values = self._stored(path).read_rows(partition, start, stop)
            if path not in self._scaled:
                return Stored(values)
            return Stored(values, self._stored(path + SCALE).read_rows(partition, start, stop))
        except ChunkError as error:
            raise self._damage(error, i) from None

    def stamps(self, part: str) -> np.ndarray:
        """int64 [M, 3], `FileStamp` of the file of every image; zeros where it has no features."""
        stored, found = self._stored(f"{part}/file"), np.zeros((self.num_images, 3), np.int64)
        for p, count in enumerate(self._image_counts.tolist()):
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
        return DamageError(
            f"image {image_id} ({file_name}): {error}",
            "the record that was committed",
            f"rs-cache verify {self._objects.url} --full names all damage",
        )


def _status_codes(sealed: SealedPart, num_images: int) -> np.ndarray:
    """uint8 [M]."""
    codes = np.full(num_images, STATUS_OK, np.uint8)
    for position, code in sealed.failed:
        codes[position] = code
    return codes
