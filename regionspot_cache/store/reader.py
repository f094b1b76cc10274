"""The reader's view of a sealed cache: numpy in, no zarr, one positioned read per record."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
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
from regionspot_cache.store.location import open_objects
from regionspot_cache.store.manifest import Manifest, SealedPart
from regionspot_cache.store.objects import Objects
from regionspot_cache.store.planned import PlannedImages
from regionspot_cache.store.proof import SealedSums
from regionspot_cache.store.quantise import dequantise
from regionspot_cache.store.shards import ChunkError, StoredArray


def open_cache(
    path: str | Path,
    *,
    parts: Sequence[str] = ("sam", "clip"),
    expect: Mapping[str, Mapping[str, Any]] | None = None,
    check: bool = True,
) -> "Cache":
    """Open a sealed cache for reading.

    Args:
        path: folder or URL.
        parts: those that are needed.
        expect: fingerprint by part that the features must have been made with.
        check: compare the bytes of every record that is read with its crc32c. That the record was committed
            for this very image is compared in any case.

    Raises:
        MissingFileError: no cache there.
        IncompleteError: a part is not complete and sealed.
        IdentityError: made with another fingerprint; names the key, both values and the command that repairs.
        DamageError: a record file does not match its checksum.
    """
    objects = open_objects(path)
    record = CacheRecord.read(objects)
    require_offsets(record, objects)
    manifest = Manifest.read(objects, record.shape)
    sealed: dict[str, SealedPart] = {}
    records: dict[str, PartRecord] = {}
    for part in parts:
        if manifest is None or part not in manifest.parts:
            raise IncompleteError(
                f"the {part} part of {objects.url} is not complete",
                "a part whose partitions are all committed and sealed",
                f"rs-cache extract --cache {objects.url} --part {part} continues where it stopped",
            )
        found = read_part(objects, record, part)
        if found is None or found.digest != manifest.parts[part].digest:
            raise DamageError(
                f"the manifest of {objects.url} does not belong to its {part} part",
                "the part that was sealed",
                f"rs-cache extract --cache {objects.url} --part {part} completes and seals it",
            )
        if expect and part in expect:
            require_fingerprint(found.spec, expect[part], objects.url)
        sealed[part], records[part] = manifest.parts[part], found
    if manifest is not None and manifest.plan_digest != record.plan_digest:
        raise IdentityError(
            f"the manifest of {objects.url} was sealed for another plan",
            "a manifest of this cache",
            f"delete {objects.url} and extract again",
        )
    return Cache(objects, record, records, sealed, check=check)


class Cache(PlannedImages):
    """Records of a sealed cache by position i in 0..M-1.

    Reading is safe from several threads and after a fork; a pickled cache opens itself again.

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
        self._int8 = {
            f"{part}/{a.name}" for part, spec in self.parts.items() for a in spec.arrays if a.dtype == "int8"
        }
        self._status = {part: _status_codes(sealed[part], record.shape.num_images) for part in records}

    def __reduce__(self) -> tuple:
        return partial(open_cache, parts=tuple(self.parts), check=self._check), (self._objects.url,)

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

    def read_map(self, i: int) -> np.ndarray:
        """CLIP map of image i, float32 [N, C], class token first. Errors: see `raw_maps`."""
        return _floats(*self.raw_map(i))

    def raw_map(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Stored map of image i: int8 [N, C] and float16 scale [N], or float16 [N, C] and None."""
        values, scale = self.raw_maps([i])
        return values[0], None if scale is None else scale[0]

    def raw_maps(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Stored maps of several images: int8 [k, N, C] and float16 scales [k, N]; or float16, None.

        Neighbours in the cache are read together, whatever their order in `indices`.

        Args:
            indices: k positions.

        Raises:
            DamageError: a record is missing or damaged; names image, partition and array.
            InputError: the image failed during extraction.
        """
        self._require_ok(indices, "clip")
        # Ascending, so that neighbours are read together: (position, row of the result).
        order = sorted(zip(np.asarray(indices, np.int64).tolist(), range(len(indices)), strict=True))
        places = [divmod(position, self.partition_size) for position, _ in order]
        rows = [row for _, row in order]
        values = self._read_items("clip/map", places, rows)
        if "clip/map" not in self._int8:
            return values, None
        return values, self._read_items("clip/map_scale", places, rows)

    def read_tokens(self, i: int, position: str = "transformer") -> np.ndarray:
        """SAM tokens of the boxes of image i, float32 [n, D]. Errors: see `raw_maps`."""
        return _floats(*self.raw_tokens(i, position))

    def raw_tokens(self, i: int, position: str = "transformer") -> tuple[np.ndarray, np.ndarray | None]:
        """Stored tokens of image i: int8 [n, D] and float16 scales [n], or float16 [n, D] and None."""
        self._require_ok([i], "sam")
        path, (partition, _) = f"sam/{position}", divmod(i, self.partition_size)
        first = self._offsets[partition * self.partition_size]
        start, stop = int(self._offsets[i] - first), int(self._offsets[i + 1] - first)
        try:
            values = self._stored(path).read_rows(partition, start, stop)
            scale = (
                self._stored(f"{path}_scale").read_rows(partition, start, stop)
                if path in self._int8
                else None
            )
        except ChunkError as error:
            raise self._damage(error, i) from None
        return values, scale

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
                f"the {part} part was not opened", f"parts=({part!r},)", "open the cache with it"
            )
        positions = np.asarray(indices, np.int64)
        outside = positions[(positions < 0) | (positions >= self.num_images)]
        if len(outside):
            raise InputError(f"image {outside[0]}", f"0 to {self.num_images - 1}", "see Cache.index_of")
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


def _floats(values: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    return values.astype(np.float32) if scale is None else dequantise(values, scale)
