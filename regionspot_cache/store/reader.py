"""The reader's view of a sealed cache: all its segments as one row of images."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from regionspot_cache.errors import IdentityError, IncompleteError, InputError
from regionspot_cache.store.layout import ArraySpec, PartSpec
from regionspot_cache.store.objects import Objects, open_objects
from regionspot_cache.store.plan import PartitionPlan
from regionspot_cache.store.segment import Segment, incomplete, open_segment
from regionspot_cache.store.segments import SegmentEntry, Segments, UpdateRecord, within
from regionspot_cache.store.shards import Check
from regionspot_cache.store.storage import Stored


def open_cache(
    path: str | Path,
    *,
    parts: Iterable[str] | None = None,
    expect: Mapping[str, Mapping[str, Any]] | None = None,
    check: Check = "first",
) -> "Cache":
    """Open a sealed cache for reading.

    Args:
        path: folder or URL.
        parts: those that are needed; all that are complete when left out.
        expect: fingerprint by part that the features must have been made with.
        check: when the bytes of a record are compared with its crc32c: as this process reads it "first",
            "always" or "never". That the record was committed for this very image is compared at every read.

    Raises:
        MissingFileError: no cache there.
        IncompleteError: a part is not complete and sealed, or an update is not finished.
        IdentityError: made with another fingerprint; names the key, both values and the command that repairs.
        DamageError: a record file does not match its checksum.
    """
    objects = open_objects(path)
    if UpdateRecord.read(objects) is not None:
        raise IncompleteError(
            f"an update of {objects.url} is not finished",
            "a cache whose images all belong to one state of its annotations",
            f"rs-cache extract --cache {objects.url} --update with the same arguments finishes it",
        )
    return open_as_it_is(path, parts, expect or {}, check=check)


def open_as_it_is(
    path: str | Path,
    parts: Iterable[str] | None,
    expect: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    check: Check = "first",
) -> "Cache":
    """As `open_cache`, also while an update is under way; parts=() is images and boxes, sealed or not."""
    objects, expected = open_objects(path), expect or {}
    known = Segments.read(objects)
    names = [entry.name for entry in known.segments[1:]] if known else []
    places = [objects, *(open_objects(within(objects.url, name)) for name in names)]
    opened = _open_segments(places, None if parts is None else tuple(parts), expected, check=check)
    first = opened[0]
    entries = known.segments if known else (SegmentEntry(name="", plan_digest=first.plan_digest),)
    for entry, segment in zip(entries, opened, strict=True):
        if segment.plan_digest != entry.plan_digest:
            raise IdentityError(
                f"segment {entry.name or 'first'} of {objects.url} is of another plan",
                "the segment that was sealed",
                f"rs-cache extract --cache {objects.url} --update",
            )
    removed = [e.removed_mask(s.num_images) for e, s in zip(entries, opened, strict=True)]
    return Cache(objects.url, opened, removed, source=known.source if known else first.source, check=check)


def _open_segments(
    places: Sequence[Objects],
    parts: tuple[str, ...] | None,
    expect: Mapping[str, Mapping[str, Any]],
    *,
    check: Check,
) -> list[Segment]:
    """All segments with the same parts: those named, or those that are complete in every segment."""
    opened = [open_segment(place, parts, expect, check=check) for place in places]
    common = tuple(part for part in opened[0].parts if all(part in segment.parts for segment in opened))
    if parts is not None or all(len(segment.parts) == len(common) for segment in opened):
        return opened
    if not common:
        raise incomplete(places[0].url, "no part that is complete in all its segments")
    return [open_segment(place, common, expect, check=check) for place in places]


class Cache:
    """Records of a sealed cache by position i in 0..M-1; each view of an image counts as an image.

    Image i is slot i % S of partition i // S. After an update some positions hold no image: those that were
    removed, and the ends of segments before the last. `ok` and `live` are False there. `source` are the
    annotations that it was extracted for, where they were named.

    Reading is safe from several threads and after a fork; a pickled cache opens itself again.
    """

    def __init__(
        self,
        url: str,
        segments: Sequence[Segment],
        removed: Sequence[np.ndarray],
        *,
        source: Any,
        check: Check,
    ) -> None:
        self.url, self.segments, self.source, self._check = url, tuple(segments), source, check
        first = self.segments[0]
        self.parts: dict[str, PartSpec] = first.parts
        self.partition_size, self.image_root = first.partition_size, first.image_root
        self.exif, self.augmentation, self.dropped = first.exif, first.augmentation, first.dropped
        for other in self.segments[1:]:
            if (other.partition_size, other.parts) != (first.partition_size, first.parts):
                raise IdentityError(
                    f"segments of {url} have unlike partitions or parts",
                    "segments of one cache",
                    f"rs-cache extract --cache {url} --update completes them",
                )
        # Partition of the whole with which each segment begins, and the position.
        self._first = np.cumsum([0, *(segment.num_partitions for segment in self.segments)])
        self.num_partitions = int(self._first[-1])
        self.segment_starts = self._first[:-1] * self.partition_size
        self.num_images = int(self.segment_starts[-1]) + self.segments[-1].num_images
        self.live = np.zeros(self.num_images, bool)
        for start, segment, gone in zip(self.segment_starts.tolist(), self.segments, removed, strict=True):
            self.live[start : start + segment.num_images] = ~gone

    def __reduce__(self) -> tuple:
        return partial(open_cache, parts=tuple(self.parts), check=self._check), (self.url,)

    def __len__(self) -> int:
        return self.num_images

    @property
    def num_boxes(self) -> int:
        """Boxes of all images, removed ones included."""
        return int(self.offsets[-1])

    @cached_property
    def counts(self) -> dict[str, Counter[str]]:
        """Images by outcome ("ok" or a failure reason) of each part, removed ones included."""
        return {
            part: sum((segment.counts[part] for segment in self.segments), Counter()) for part in self.parts
        }

    def array(self, path: str) -> ArraySpec:
        """The array PART/ARRAY. Raises InputError when it is not among those opened."""
        part, _, name = path.partition("/")
        for array in self.parts[part].arrays if part in self.parts else ():
            if array.name == name:
                return array
        known = [f"{part}/{array.name}" for part, spec in self.parts.items() for array in spec.arrays]
        raise InputError(
            f"the cache at {self.url} has no array {path}",
            f"one of {', '.join(known)}",
            f"rs-cache extract --cache {self.url} --backbone FILE adds a part; rs-cache info {self.url}",
        )

    def partition(self, index: int) -> PartitionPlan:
        """Images and boxes of one partition."""
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        return self.segments[number].partition(index - int(self._first[number]))

    def image(self, i: int) -> tuple[int | str, str]:
        """Image id and file name of image i. Raises InputError when no image was ever planned there."""
        segment, local = self._at(i)
        return segment.image(local)

    def ok(self, i: int, part: str) -> bool:
        """Whether image i is there and has features in a part."""
        return bool(self._ok[part][i])

    def ok_mask(self, part: str) -> np.ndarray:
        """bool [M]: which images are there and have features in a part."""
        return self._ok[part]

    def revision(self, part: str, index: int) -> str:
        """SHA-256 of what proves one partition of a part: another one where its features were made anew."""
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        return self.segments[number].revision(part, index - int(self._first[number]))

    @cached_property
    def _ok(self) -> dict[str, np.ndarray]:
        return {
            part: self.live & self._joined([s.ok_mask(part) for s in self.segments]) for part in self.parts
        }

    @cached_property
    def file_names(self) -> list[str]:
        """By position; "" where no image was ever planned."""
        names = [""] * self.num_images
        for start, segment in zip(self.segment_starts.tolist(), self.segments, strict=True):
            names[start : start + segment.num_images] = segment.file_names
        return names

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 [M + 1]: image i owns boxes offsets[i]:offsets[i + 1] of the cache's order."""
        counts = self._joined([np.diff(segment.offsets) for segment in self.segments])
        return np.concatenate([[0], np.cumsum(counts)])

    @cached_property
    def all_boxes(self) -> np.ndarray:
        """float32 [T, 4] in the cache's order; loaded on first use, 16 bytes a box."""
        return np.concatenate([segment.all_boxes for segment in self.segments])

    @cached_property
    def all_sizes(self) -> np.ndarray:
        """int32 [M, 2], width and height by position; loaded on first use."""
        return self._joined([segment.all_sizes for segment in self.segments])

    @cached_property
    def views(self) -> np.ndarray | None:
        """int32 [M], the view of each image (0: the picture itself); None without extra views."""
        return self._of_views([segment.views for segment in self.segments])

    @cached_property
    def origins(self) -> np.ndarray | None:
        """int32 [M], number of the image that each one is a view of; None without extra views."""
        found = [segment.origins for segment in self.segments]
        used = [0, *np.cumsum([int(each.max(initial=-1)) + 1 for each in found if each is not None]).tolist()]
        return self._of_views([each + n for each, n in zip(found, used, strict=False) if each is not None])

    @cached_property
    def frames(self) -> np.ndarray | None:
        """int32 [M, 6], see `datasets.augmentation`; None without extra views."""
        return self._of_views([segment.frames for segment in self.segments])

    def _of_views(self, columns: Sequence[np.ndarray | None]) -> np.ndarray | None:
        found = [column for column in columns if column is not None]
        return self._joined(found) if len(found) == len(self.segments) else None

    def boxes(self, i: int) -> np.ndarray:
        """float32 [n, 4], xyxy in pixels of image i: of the view, where there are extra ones."""
        return self.all_boxes[self.offsets[i] : self.offsets[i + 1]]

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of image i (of the view) in pixels."""
        width, height = self.all_sizes[i].tolist()
        return width, height

    def stamps(self, part: str) -> np.ndarray:
        """int64 [M, 3], `datasets.images.FileStamp` of every image; zeros where there are no features."""
        return self._joined([segment.stamps(part) for segment in self.segments])

    def read(self, path: str, i: int) -> np.ndarray:
        """Image i of the array PART/ARRAY, float32 [*item], or [n, *item] by box; errors of `raw_images`."""
        array = self.array(path)
        stored = self.raw_boxes(path, i) if array.ragged else self.raw_images(path, [i])
        read = array.storage.decode(*stored)
        return read if array.ragged else read[0]

    def raw_images(self, path: str, indices: Sequence[int]) -> Stored:
        """Stored records of several images: values [k, *item], and scales [k, *item[:-1]] of a scaled type.

        `path` is PART/ARRAY, of one record an image. Neighbours are read together, whatever their order in
        `indices`.

        Raises:
            DamageError: a record is missing or damaged; names image, partition and array.
            InputError: the image failed during extraction, or there is none.
        """
        if len(self.segments) == 1:
            return self.segments[0].raw_images(path, indices)
        chosen = np.asarray(indices, np.int64)
        numbers = np.searchsorted(self.segment_starts, chosen, side="right") - 1
        array = self.array(path)
        found = array.storage.empty((len(chosen), *array.item_shape))
        for number in np.unique(numbers).tolist():
            rows = np.flatnonzero(numbers == number)
            local = (chosen[rows] - self.segment_starts[number]).tolist()
            found.put(rows, self.segments[number].raw_images(path, local))
        return found

    def raw_boxes(self, path: str, i: int) -> Stored:
        """Stored records of the boxes of image i: values [n, *item], and scales of a scaled type.

        `path` is PART/ARRAY, of one record a box; errors as of `raw_images`.
        """
        segment, local = self._at(i)
        return segment.raw_boxes(path, local)

    def _at(self, i: int) -> tuple[Segment, int]:
        number = int(np.searchsorted(self.segment_starts, i, side="right")) - 1
        return self.segments[number], i - int(self.segment_starts[number])

    def _joined(self, columns: Sequence[np.ndarray]) -> np.ndarray:
        """Rows of all segments by position, zero where there is no image."""
        if len(columns) == 1:
            return columns[0]
        whole = np.zeros((self.num_images, *columns[0].shape[1:]), columns[0].dtype)
        for start, column in zip(self.segment_starts.tolist(), columns, strict=True):
            whole[start : start + len(column)] = column
        return whole
