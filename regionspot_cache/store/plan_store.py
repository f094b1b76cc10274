"""The plan as stored arrays: written once, then read a partition at a time or loaded flat; bytes it takes."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np

from regionspot_cache.datasets.augmentation import ViewTable
from regionspot_cache.store.encode import METADATA, array_metadata, empty_block, encode_shard, group_metadata
from regionspot_cache.store.identity import CacheRecord
from regionspot_cache.store.layout import PartSpec, StackedArray, part_arrays, plan_arrays
from regionspot_cache.store.objects import Objects, WholeObjects
from regionspot_cache.store.plan import CachePlan, PartitionPlan
from regionspot_cache.store.records import damage
from regionspot_cache.store.shards import (
    ChunkError,
    ObjectEntry,
    StoredArray,
    chunk_sums,
    object_entry,
    recorded_sums,
)


def plan_objects(plan: CachePlan) -> Iterator[tuple[str, bytes | memoryview, ObjectEntry]]:
    """Every object of the stored plan, (key, bytes, entry), one at a time to bound memory."""
    metadata = group_metadata()
    yield f"plan/{METADATA}", metadata, object_entry(metadata)
    for name, array in plan_arrays(plan.shape).items():
        metadata = array_metadata(array)
        yield f"{array.path}/{METADATA}", metadata, object_entry(metadata)
        for shard in range(array.shards):
            data = encode_shard(array, _plan_block(plan, name, array, shard))
            if data is not None:
                yield array.key(shard), data, object_entry(data, chunk_sums(array, data))


def _plan_block(plan: CachePlan, name: str, array: StackedArray, shard: int) -> np.ndarray:
    partitions = range(shard * array.group, min((shard + 1) * array.group, array.partitions))
    block = empty_block(array, len(partitions))
    for row, index in enumerate(partitions):
        values = partition_columns(plan.partition(index), name)
        block[row, : len(values)] = values
    return block


def partition_columns(partition: PartitionPlan, name: str) -> np.ndarray:
    """The rows that array `name` of the plan stores for one partition."""
    if partition.views is not None and name in ("views", "origins", "frames"):
        return partition.views.numbers if name == "views" else getattr(partition.views, name)
    if name not in ("text", "text_offsets"):
        return getattr(partition, name)
    pairs = zip(partition.image_ids, partition.file_names, strict=True)
    pieces = [str(text).encode(errors="surrogateescape") for pair in pairs for text in pair]
    if name == "text":
        return np.frombuffer(b"".join(pieces), np.uint8)
    return np.cumsum([0, *map(len, pieces)], dtype=np.int32)


class StoredPlan:
    """Reads the stored plan; every row that is read is the one whose checksum cache.json has."""

    def __init__(self, objects: Objects, record: CacheRecord) -> None:
        self.shape, self.num_partitions = record.shape, record.shape.num_partitions
        self._objects, self._record = objects, record
        self._arrays = {name: self._stored(a, objects) for name, a in plan_arrays(record.shape).items()}

    def _stored(self, array: StackedArray, objects: Objects | WholeObjects) -> StoredArray:
        return StoredArray(objects.open, array, recorded_sums(self._record.objects, array))

    @cached_property
    def image_counts(self) -> np.ndarray:
        """int64 [P], images of each partition."""
        return np.array([self.shape.partition_images(p) for p in range(self.num_partitions)], np.int64)

    @cached_property
    def box_counts(self) -> np.ndarray:
        """int64 [P], boxes of each partition."""
        rows = (self._rows("offsets", p, int(n) + 1) for p, n in enumerate(self.image_counts))
        return np.array([offsets[-1] for offsets in rows], np.int64)

    def partition(self, index: int) -> PartitionPlan:
        """Images and boxes of partition `index`. Raises DamageError."""
        images = self.shape.partition_images(index)
        offsets = self._rows("offsets", index, images + 1)
        texts = self.texts(index)
        boxes = int(offsets[-1])
        return PartitionPlan(
            index=index,
            image_ids=self._ids(texts[::2]),
            file_names=texts[1::2],
            sizes=self._rows("sizes", index, images),
            boxes=self._rows("boxes", index, boxes),
            offsets=offsets,
            views=self.views(index) if self.shape.views else None,
        )

    def views(self, index: int) -> ViewTable:
        """Views of the images of a partition, of a cache that has extra ones."""
        images = self.shape.partition_images(index)
        return ViewTable(
            numbers=self._rows("views", index, images),
            origins=self._rows("origins", index, images),
            frames=self._rows("frames", index, images),
        )

    def texts(self, index: int) -> list[str]:
        """Image id and file name of each image of a partition in turn, 2s strings."""
        ends = self._rows("text_offsets", index, 2 * self.shape.partition_images(index) + 1).tolist()
        text = self._rows("text", index, ends[-1]).tobytes()
        return [text[start:end].decode(errors="surrogateescape") for start, end in pairwise(ends)]

    def image_name(self, index: int, slot: int) -> tuple[int | str, str]:
        """Image id and file name of one image."""
        image_id, file_name = self.texts(index)[2 * slot : 2 * slot + 2]
        return self._ids([image_id])[0], file_name

    def _ids(self, texts: list[str]) -> list[int | str]:
        if self._record.id_kind == "str":
            return [*texts]
        try:
            return [int(text) for text in texts]
        except ValueError:
            found = f"the image ids of {self._objects.url} are no numbers"
            raise damage(found, "numbers, as its cache.json says") from None

    def load(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Array `name` of `plan_arrays`: `rows`, int [P], of all partitions in turn, [T, *item_shape]."""
        array = self._arrays[name].array
        whole = self._stored(array, WholeObjects(self._objects))
        flat = np.empty((int(np.sum(rows)), *array.item_shape), array.dtype)
        start = 0
        for index, count in enumerate(np.asarray(rows).tolist()):
            flat[start : start + count] = _checked(whole, index, count)
            start += count
        return flat

    def _rows(self, name: str, index: int, count: int) -> np.ndarray:
        return _checked(self._arrays[name], index, count)


def _checked(stored: StoredArray, partition: int, count: int) -> np.ndarray:
    try:
        return stored.read_rows(partition, 0, count)
    except ChunkError as error:
        raise damage(f"the plan of the cache is damaged: {error}", "every row that was planned") from None


def estimate(plan: CachePlan, parts: Sequence[PartSpec]) -> dict[str, int]:
    """Bytes of the stored objects of every array, by path ("clip/map"), and their "total".

    Exact when no image fails. The small JSON objects (about 5 KB a partition and part) are not counted.
    """
    rows = {
        "boxes": plan.box_counts,
        "offsets": plan.image_counts + 1,
        "sizes": plan.image_counts,
        "text": plan.text_counts,
        "text_offsets": 2 * plan.image_counts + 1,
        "views": plan.image_counts,
        "origins": plan.image_counts,
        "frames": plan.image_counts,
    }
    sizes = {array.path: array.stored_bytes(rows[name]) for name, array in plan_arrays(plan.shape).items()}
    for spec in parts:
        sizes |= _part_bytes(plan, spec, np.ones(plan.num_partitions, bool))
    return {**sizes, "total": sum(sizes.values())}


def missing_bytes(
    plan: CachePlan | StoredPlan, parts: Sequence[PartSpec], pending: Mapping[str, Sequence[int]]
) -> int:
    """Bytes of the partitions that each part still lacks, exact like `estimate`.

    `pending` are partitions that are not committed, by part; all of a part that is not named.
    """
    total = 0
    for spec in parts:
        lacking = np.ones(plan.num_partitions, bool)
        if spec.name in pending:
            lacking[:] = False
            lacking[list(pending[spec.name])] = True
        total += sum(_part_bytes(plan, spec, lacking).values())
    return total


def _part_bytes(plan: CachePlan | StoredPlan, spec: PartSpec, chosen: np.ndarray) -> dict[str, int]:
    """Bytes of every array of a part in the chosen partitions, bool [P], by path."""
    return {
        array.path: array.stored_bytes((plan.box_counts if array.ragged else plan.image_counts) * chosen)
        for array in part_arrays(spec, plan.shape).values()
    }
