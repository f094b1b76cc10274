"""What is stored where: parts, their arrays, and how each array is cut into stored objects.

Axes: P partitions, S images a partition, B boxes a partition (the largest one), N tokens of a map, C
channels, D channels of a region token. Axis 0 of every array is the partition.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil, prod
from typing import Annotated, Any

import numpy as np
from pydantic import Field, StringConstraints

from regionspot_cache.errors import InputError
from regionspot_cache.store.records import canonical, digest
from regionspot_cache.store.storage import FILL_VALUES, SCALE, STORAGE, Storage, StorageName

FORMAT = 3
STATUS_ABSENT, STATUS_OK = 0, 1
# Code of every outcome for one image in one part; 0 (the fill value) is "never written".
STATUS_CODES = {
    "absent": STATUS_ABSENT,
    "ok": STATUS_OK,
    "missing": 2,
    "undecodable": 3,
    "size mismatch": 4,
    "outside root": 5,
    "too large": 6,
    "non-finite features": 7,
}
STATUS_REASONS = {code: reason for reason, code in STATUS_CODES.items()}

INDEX_ENTRY_BYTES, CRC_BYTES = 16, 4
STAMP = 3  # numbers that identify a file: bytes, time, content
_RUN_BYTES = 16 << 10  # inner chunk of arrays with small rows
_SCALE_RUN_BYTES = 2 << 10
_PLAN_SHARD_BYTES = 32 << 20
_LARGEST_ITEM = 1 << 26  # values of one record

# Sizes that a record may state; what is larger is refused before anything is allocated.
Size = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
NAME = r"[a-z][a-z0-9_]*"
PartName = Annotated[str, StringConstraints(pattern=f"^{NAME}$", max_length=64)]
_TAKEN = {"plan", "parts", "markers", "staging", "updates", "derived"}  # folders of a cache


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One feature array of a part.

    Attributes:
        dtype: its storage type; the scales of a scaled one are the array NAME_scale.
        item_shape: shape of one record, for example (N, C) of a map, (D,) of a token.
        ragged: one record per box instead of one per image.
        grid: rows and columns of a map whose last rows * columns tokens lie row by row over the image.
    """

    name: str
    dtype: StorageName
    item_shape: tuple[Positive, ...]
    ragged: bool
    grid: tuple[Positive, Positive] | None = None

    @property
    def storage(self) -> Storage:
        """Its storage type."""
        return STORAGE[self.dtype]

    @property
    def stored(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """See `Storage.arrays`."""
        return self.storage.arrays(self.name, self.item_shape)


@dataclass(frozen=True, kw_only=True)
class PartSpec:
    """What one frozen network stores: its arrays, and the identity of what computes them (JSON values)."""

    name: str
    arrays: tuple[ArraySpec, ...]
    fingerprint: Mapping[str, Any]

    def __post_init__(self) -> None:
        # Names become folders; a record read from elsewhere must not leave the cache.
        names = [array.name for array in self.arrays]
        good = all(re.fullmatch(NAME, name) and not name.endswith(SCALE) for name in (*names, self.name))
        good = good and all(0 < prod(array.item_shape) <= _LARGEST_ITEM for array in self.arrays)
        good = good and all(array.storage.fits(array.item_shape) for array in self.arrays)
        good = good and not {"status", "file"}.intersection(names) and len(set(names)) == len(names) > 0
        if not good or self.name in _TAKEN or len(self.name) > 64:
            raise InputError(
                f"a part {self.name!r} with arrays {[(a.name, a.item_shape) for a in self.arrays]}",
                "different names of small letters, digits and _; of a part none of "
                f"{', '.join(sorted(_TAKEN))}, of an array not status, file or ..._scale; "
                "shapes that fit into memory, and of int4 an even number of channels",
                "rename it in the backbone file",
            )

    @property
    def digest(self) -> str:
        """SHA-256 of the identity of the features."""
        return digest(canonical(asdict(self)))


@dataclass(frozen=True, kw_only=True)
class PlanShape:
    """The sizes that fix the shape of every array: S images a partition, B boxes in the largest one.

    `max_text` are the bytes of the longest partition's image ids and file names; with `views` there are extra
    views of images, and each counts as an image.
    """

    num_images: Positive
    num_boxes: Annotated[int, Field(ge=0, lt=2**40)]
    partition_size: Positive
    max_boxes: Size
    max_text: Size
    views: bool = False

    @property
    def num_partitions(self) -> int:
        """P; the last partition may be shorter."""
        return ceil(self.num_images / self.partition_size)

    def partition_images(self, partition: int) -> int:
        """Number of images of one partition."""
        return min(self.partition_size, self.num_images - partition * self.partition_size)


@dataclass(frozen=True, kw_only=True)
class StackedArray:
    """One stored zarr array [P, length, *item_shape] and how it is cut.

    A stored object (shard) holds `group` partitions, an inner chunk `rows` rows of one; those past the last
    record of a partition are not stored. `ragged` arrays have one row a box, the others one row an image.
    """

    path: str
    dtype: str
    partitions: int
    length: int
    item_shape: tuple[int, ...]
    rows: int
    ragged: bool
    group: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole array."""
        return (self.partitions, self.length, *self.item_shape)

    @property
    def chunks_per_partition(self) -> int:
        """Inner chunks that a full partition needs."""
        return ceil(self.length / self.rows)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of an inner chunk."""
        return (1, self.rows, *self.item_shape)

    @property
    def shard_shape(self) -> tuple[int, ...]:
        """Shape of a stored object, padded to whole inner chunks."""
        return (self.group, self.chunks_per_partition * self.rows, *self.item_shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return prod(self.item_shape) * np.dtype(self.dtype).itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes of an inner chunk without its checksum."""
        return self.rows * self.row_bytes

    @property
    def index_entries(self) -> int:
        """Entries of a stored object's index."""
        return self.group * self.chunks_per_partition

    @property
    def index_bytes(self) -> int:
        """Bytes of the index at the end of a stored object, checksum included."""
        return self.index_entries * INDEX_ENTRY_BYTES + CRC_BYTES

    @property
    def fill_value(self) -> int | float:
        """What is read where nothing is stored."""
        return FILL_VALUES[self.dtype]

    @property
    def shards(self) -> int:
        """Number of stored objects when none is empty."""
        return ceil(self.partitions / self.group)

    def key(self, shard: int) -> str:
        """Key of a stored object. Flat names: one folder per array, whatever the number of axes."""
        return f"{self.path}/c.{shard}" + ".0" * (1 + len(self.item_shape))

    def needed_chunks(self, rows: int) -> int:
        """Inner chunks that hold the first `rows` rows of a partition."""
        return ceil(rows / self.rows)

    def stored_bytes(self, rows: np.ndarray) -> int:
        """Exact bytes of all stored objects when partition p has rows[p] written rows, int [P]."""
        chunks = np.add.reduceat(-(-rows // self.rows), np.arange(0, self.partitions, self.group))
        return int(chunks.sum()) * (self.chunk_bytes + CRC_BYTES) + int((chunks > 0).sum()) * self.index_bytes


def part_arrays(spec: PartSpec, shape: PlanShape) -> dict[str, StackedArray]:
    """Every stored array of a part by name: features, "status" uint8 [P, S] and "file" int64 [P, S, 3]."""
    images, boxes = shape.partition_size, max(1, shape.max_boxes)
    arrays = {
        "status": _stacked(f"{spec.name}/status", "uint8", shape, images, (), run_bytes=_RUN_BYTES),
        "file": _stacked(f"{spec.name}/file", "int64", shape, images, (STAMP,), run_bytes=_RUN_BYTES),
    }
    for array in spec.arrays:
        length = boxes if array.ragged else images
        for name, (dtype, item) in array.stored.items():
            run = _SCALE_RUN_BYTES if name.endswith(SCALE) else _RUN_BYTES
            arrays[name] = _stacked(
                f"{spec.name}/{name}",
                dtype,
                shape,
                length,
                item,
                run_bytes=run if array.ragged else 0,  # 0: one row an inner chunk
                ragged=array.ragged,
            )
    return arrays


def plan_arrays(shape: PlanShape) -> dict[str, StackedArray]:
    """Every array of the plan by name.

    boxes float32 [P, B, 4] (xyxy, pixels of the original image), offsets int32 [P, S+1] (image s owns boxes
    offsets[s]:offsets[s+1]), sizes int32 [P, S, 2] (width, height), text uint8 [P, T] with text_offsets int32
    [P, 2S+1]: UTF-8 of image id and file name in turn.

    With extra views also views int32 [P, S] (0: the picture itself), origins int32 [P, S] (number of the
    image in the dataset) and frames int32 [P, S, 6] (see `regionspot_cache.datasets.augmentation`).
    """
    images, boxes, text = shape.partition_size, max(1, shape.max_boxes), max(1, shape.max_text)
    table: dict[str, tuple[str, int, tuple[int, ...]]] = {
        "boxes": ("float32", boxes, (4,)),
        "offsets": ("int32", images + 1, ()),
        "sizes": ("int32", images, (2,)),
        "text": ("uint8", text, ()),
        "text_offsets": ("int32", 2 * images + 1, ()),
    }
    if shape.views:
        table |= {
            "views": ("int32", images, ()),
            "origins": ("int32", images, ()),
            "frames": ("int32", images, (6,)),
        }
    return {
        name: _stacked(f"plan/{name}", dtype, shape, length, item, run_bytes=_RUN_BYTES, grouped=True)
        for name, (dtype, length, item) in table.items()
    }


def _stacked(
    path: str,
    dtype: str,
    shape: PlanShape,
    length: int,
    item: tuple[int, ...],
    *,
    run_bytes: int,
    ragged: bool = False,
    grouped: bool = False,
) -> StackedArray:
    row_bytes = prod(item) * np.dtype(dtype).itemsize
    rows = max(1, min(length, run_bytes // row_bytes))
    partition_bytes = ceil(length / rows) * rows * row_bytes
    group = max(1, min(shape.num_partitions, _PLAN_SHARD_BYTES // partition_bytes)) if grouped else 1
    return StackedArray(
        path=path,
        dtype=dtype,
        partitions=shape.num_partitions,
        length=length,
        item_shape=item,
        rows=rows,
        ragged=ragged,
        group=group,
    )
