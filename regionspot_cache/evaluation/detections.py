"""Detections of a whole dataset in columns: 16 bytes a detection beside its box, 6 million fit in 200 MB.

A box is stored once and may carry many classes; its mask belongs to the box and is stored once as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

from regionspot_cache.errors import InputError
from regionspot_cache.evaluation.rle import Rle, mask_areas

MAX_DETECTIONS = 300  # per image over all classes: the standard of LVIS
PER_CATEGORY = 10_000  # over the dataset: fixed AP (Dave et al. 2021, arXiv 2102.01066)


@dataclass(frozen=True, kw_only=True)
class MaskTable:
    """Compressed run lengths of many masks in one buffer.

    Attributes:
        data: the counts of all masks, one after the other.
        offsets: i64 [B+1].
        sizes: i32 [B,2], height and width of each mask.
    """

    data: bytes | bytearray
    offsets: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    @classmethod
    def from_rles(cls, rles: Sequence[Mapping[str, Any]]) -> Self:
        counts = [_as_bytes(rle["counts"]) for rle in rles]
        return cls(
            data=b"".join(counts),
            offsets=np.cumsum([0, *map(len, counts)], dtype=np.int64),
            sizes=np.array([rle["size"] for rle in rles], np.int32).reshape(-1, 2),
        )

    @classmethod
    def concatenate(cls, tables: Sequence["MaskTable"]) -> Self:
        lengths = [np.diff(table.offsets) for table in tables]
        return cls(
            data=b"".join(table.data for table in tables),
            offsets=np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *lengths]))]),
            sizes=np.concatenate([np.zeros((0, 2), np.int32), *(table.sizes for table in tables)]),
        )

    def rle(self, row: int) -> Rle:
        """{"size": [h, w], "counts": bytes}, as pycocotools takes it."""
        start, end = self.offsets[row : row + 2]
        return {"size": self.sizes[row].tolist(), "counts": bytes(self.data[start:end])}

    def rles(self, rows: np.ndarray) -> list[Rle]:
        return [self.rle(row) for row in rows]

    def take(self, rows: np.ndarray) -> Self:
        """Only these masks, in this order."""
        lengths = np.diff(self.offsets)[rows]
        starts = self.offsets[rows].tolist()
        ends = (self.offsets[rows] + lengths).tolist()
        return type(self)(
            data=b"".join([self.data[start:end] for start, end in zip(starts, ends, strict=True)]),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            sizes=self.sizes[rows],
        )

    def areas(self, rows: np.ndarray) -> np.ndarray:
        """Pixels of each mask, f64 [len(rows)]; a few thousand masks are held apart at a time."""
        parts = [mask_areas(self.rles(rows[at : at + 4096])) for at in range(0, len(rows), 4096)]
        return np.concatenate([np.zeros(0), *parts])


def _as_bytes(counts: str | bytes) -> bytes:
    return counts.encode("ascii") if isinstance(counts, str) else counts


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Scored classes of boxes, for all images of an evaluation.

    Attributes:
        image_ids: the images [M], with or without detections.
        offsets: i64 [M+1], the detection rows of each image.
        category_ids: i64 [D], ids of the annotation file.
        scores: f32 or f64 [D].
        box_index: i32 [D], the row of `boxes` (and `masks`) of each detection.
        boxes: f32 or f64 [B,4] xyxy, pixels of the original image.
        masks: one mask per box, or None.
    """

    image_ids: tuple[int | str, ...]
    offsets: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    box_index: np.ndarray
    boxes: np.ndarray
    masks: MaskTable | None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def image_of_row(self) -> np.ndarray:
        """i32 [D], index into image_ids."""
        return np.repeat(np.arange(len(self.image_ids), dtype=np.int32), np.diff(self.offsets))

    def rows(self, image: int) -> slice:
        """The detection rows of the image with this index."""
        return slice(int(self.offsets[image]), int(self.offsets[image + 1]))

    def take(self, rows: np.ndarray) -> Self:
        """Only these detection rows (ascending, so that images stay together)."""
        counts = np.bincount(self.image_of_row[rows], minlength=len(self.image_ids))
        return type(self)(
            image_ids=self.image_ids,
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            category_ids=self.category_ids[rows],
            scores=self.scores[rows],
            box_index=self.box_index[rows],
            boxes=self.boxes,
            masks=self.masks,
        )

    def capped(self, per_image: int = MAX_DETECTIONS) -> Self:
        """The best detections of each image over all classes; of equal scores the earlier rows stay.

        This comes before any filter by annotated categories: the other way round inflates AP.
        """
        counts = np.diff(self.offsets)
        if not counts.size or counts.max() <= per_image:
            return self
        return self.take(np.sort(best_of_groups(self.image_of_row, self.scores, per_image)))

    def best_of_categories(self, per_category: int = PER_CATEGORY) -> Self:
        """The best detections of each category over all images, however many of them are of one image.

        Of equal scores the earlier rows stay. This is what fixed AP counts, in place of `capped`.
        """
        best = best_of_groups(self.category_ids, self.scores, per_category)
        return self if len(best) == len(self) else self.take(np.sort(best))


def best_of_groups(groups: np.ndarray, scores: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` of each group [n], group by group by falling score; ties to the earlier."""
    order = np.lexsort((-scores, groups))  # stable
    ordered = groups[order]
    return order[np.arange(len(order)) - np.searchsorted(ordered, ordered) < most]


class MaskSource(Protocol):
    """Run lengths {"size", "counts"} by box; may compute them when asked."""

    def __getitem__(self, box: int, /) -> Mapping[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class ImageDetections:
    """The detections of one image, complete: whoever has it can add it without another step that may fail.

    Attributes:
        image_id: as in the annotation file.
        boxes: [n,4] xyxy, pixels of the original image; each is used by a detection.
        box_index: i32 [k], the row of `boxes` of each detection.
        category_ids: i64 [k], ids of the annotation file.
        scores: [k].
        masks: one a box, or None.
    """

    image_id: int | str
    boxes: np.ndarray
    box_index: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    masks: MaskTable | None

    @classmethod
    def of(
        cls,
        image_id: int | str,
        *,
        boxes: np.ndarray,
        box_index: np.ndarray,
        category_ids: np.ndarray,
        scores: np.ndarray,
        masks: MaskSource | None = None,
    ) -> Self:
        """From all boxes of an image; those that no detection uses are left out, their masks never asked for.

        Args:
            boxes: [n,4] xyxy, pixels of the original image.
            box_index: [k], the row of `boxes` that each detection means.
            category_ids: [k], ids of the annotation file.
            scores: [k].
            masks: run lengths of each box ({"size", "counts"}).
        """
        used, index = np.unique(box_index, return_inverse=True)
        return cls(
            image_id=image_id,
            boxes=boxes[used],
            box_index=index.astype(np.int32),
            category_ids=category_ids.astype(np.int64),
            scores=scores,
            masks=None if masks is None else MaskTable.from_rles([masks[i] for i in used]),
        )


class DetectionsBuilder:
    """Collects the detections of one image after the other."""

    def __init__(self) -> None:
        self._images: list[ImageDetections] = []

    def add(self, image: ImageDetections) -> None:
        """Adds one image."""
        self._images.append(image)

    def build(self) -> Detections:
        """All images in the order they came.

        Raises:
            InputError: an image came twice, or only some boxes have masks.
        """
        images = self._images
        ids = tuple(image.image_id for image in images)
        if len(set(ids)) != len(ids):
            raise InputError("an image was added twice", "every image once", "merge its detections first")
        first_box = np.cumsum([0, *(len(image.boxes) for image in images)])
        tables = [image.masks for image in images if image.masks is not None]
        masks = MaskTable.concatenate(tables) if tables else None
        if masks is not None and len(masks) != first_box[-1]:
            raise InputError(
                f"{len(masks)} masks for {first_box[-1]} boxes",
                "masks for all boxes or none",
                "add the masks",
            )
        index = [image.box_index + first for image, first in zip(images, first_box[:-1], strict=True)]
        return Detections(
            image_ids=ids,
            offsets=np.cumsum([0, *(len(image.scores) for image in images)], dtype=np.int64),
            category_ids=_joined([image.category_ids for image in images], np.zeros(0, np.int64)),
            scores=_joined([image.scores for image in images], np.zeros(0, np.float32)),
            box_index=_joined(index, np.zeros(0, np.int32)).astype(np.int32),
            boxes=_joined([image.boxes for image in images], np.zeros((0, 4), np.float32)),
            masks=masks,
        )


def _joined(parts: Sequence[np.ndarray], none: np.ndarray) -> np.ndarray:
    return np.concatenate(parts) if parts else none
