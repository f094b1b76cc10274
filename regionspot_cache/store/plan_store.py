"""The plan as stored arrays: written once, then read a partition at a time or loaded flat."""

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

import numpy as np

from regionspot_cache.datasets.augmentation import ViewTable
from regionspot_cache.store.encode import METADATA, array_metadata, empty_block, encode_shard, group_metadata
from regionspot_cache.store.entries import ObjectEntry, object_entry, recorded_sums
from regionspot_cache.store.identity import CacheRecord
from regionspot_cache.store.layout import StackedArray, plan_arrays
from regionspot_cache.store.objects import Objects, WholeObjects
from regionspot_cache.store.plan import CachePlan, PartitionPlan
from regionspot_cache.store.records import damage
from regionspot_cache.store.shards import ChunkError, StoredArray, chunk_sums


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
        self.shape = record.shape
        self._objects, self._record = objects, record
        self._arrays = {name: self._stored(a, objects) for name, a in plan_arrays(record.shape).items()}

    def _stored(self, array: StackedArray, objects: Objects | WholeObjects) -> StoredArray:
        return StoredArray(objects.open, array, recorded_sums(self._record.objects, array))

    @property
    def num_partitions(self) -> int:
        return self.shape.num_partitions

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
