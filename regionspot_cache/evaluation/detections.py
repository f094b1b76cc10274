"""Detections of a whole dataset in columns: 16 bytes a detection beside its box, 6 million fit in 200 MB.

A box is stored once and may carry many classes; its mask belongs to the box and is stored once as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np

from regionspot_cache.datasets.tables import offsets_of, ranks
from regionspot_cache.errors import InputError
from regionspot_cache.evaluation.rle import Rle, mask_areas

MAX_DETECTIONS = 300  # per image over all classes: the standard of LVIS
PER_CATEGORY = 10_000  # over the dataset: fixed AP (Dave et al. 2021, arXiv 2102.01066)


@dataclass(frozen=True, kw_only=True)
class MaskTable:
    """Compressed run lengths of many masks in one buffer."""

    data: bytes | bytearray  # the counts of all masks, one after the other
    offsets: np.ndarray  # i64 [B+1]
    sizes: np.ndarray  # i32 [B,2], height and width of each mask
    areas: np.ndarray  # i64 [B], pixels of each mask

    def __len__(self) -> int:
        return len(self.sizes)

    @classmethod
    def from_rles(cls, rles: Sequence[Mapping[str, Any]]) -> Self:
        counts = [c.encode("ascii") if isinstance(c := rle["counts"], str) else c for rle in rles]
        return cls(
            data=b"".join(counts),
            offsets=offsets_of(list(map(len, counts))),
            sizes=np.array([rle["size"] for rle in rles], np.int32).reshape(-1, 2),
            areas=mask_areas(rles),
        )

    @classmethod
    def concatenate(cls, tables: Sequence["MaskTable"]) -> Self:
        lengths = [np.diff(table.offsets) for table in tables]
        return cls(
            data=b"".join(table.data for table in tables),
            offsets=offsets_of(np.concatenate(lengths)),
            sizes=np.concatenate([table.sizes for table in tables]),
            areas=np.concatenate([table.areas for table in tables]),
        )

    def rle(self, row: int) -> Rle:
        """{"size": [h, w], "counts": bytes}, as pycocotools takes it."""
        start, end = self.offsets[row : row + 2]
        return {"size": self.sizes[row].tolist(), "counts": bytes(self.data[start:end])}

    def rles(self, rows: np.ndarray) -> list[Rle]:
        """Those of `rows`, int [n]."""
        starts, ends = self.offsets[rows].tolist(), self.offsets[rows + 1].tolist()
        return [
            {"size": size, "counts": bytes(self.data[start:end])}
            for size, start, end in zip(self.sizes[rows].tolist(), starts, ends, strict=True)
        ]

    def take(self, rows: np.ndarray) -> Self:
        """Only these masks, in this order."""
        starts, ends = self.offsets[rows].tolist(), self.offsets[np.asarray(rows) + 1].tolist()
        parts = [self.data[start:end] for start, end in zip(starts, ends, strict=True)]
        return type(self)(
            data=b"".join(parts),
            offsets=offsets_of(list(map(len, parts))),
            sizes=self.sizes[rows],
            areas=self.areas[rows],
        )


class MaskSource(Protocol):
    """Masks by box, such as a `MaskTable`; may compute them when asked."""

    def take(self, boxes: np.ndarray, /) -> MaskTable:
        """The masks of some boxes, int [n]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Scored classes of boxes, for all images of an evaluation."""

    image_ids: tuple[int | str, ...]  # the images [M], with or without detections
    offsets: np.ndarray  # i64 [M+1], the detection rows of each image
    category_ids: np.ndarray  # i64 [D], ids of the annotation file
    scores: np.ndarray  # f32 or f64 [D]
    box_index: np.ndarray  # i32 [D], the row of `boxes` (and `masks`) of each detection
    boxes: np.ndarray  # f32 or f64 [B,4] xyxy, pixels of the original image
    masks: MaskTable | None  # one mask per box, or None

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
        """Detections of one image: boxes that none of them uses are left out, their masks never asked for."""
        used, index = np.unique(box_index, return_inverse=True)
        return cls(
            image_ids=(image_id,),
            offsets=offsets_of([len(scores)]),
            category_ids=category_ids.astype(np.int64),
            scores=scores,
            box_index=index.astype(np.int32),
            boxes=boxes[used],
            masks=None if masks is None else masks.take(used),
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Detections"]) -> Self:
        """Those of different images, in the order of the parts; masks for all boxes or none."""
        parts = parts or [_NOTHING]
        ids = tuple(image_id for part in parts for image_id in part.image_ids)
        if len(set(ids)) != len(ids):
            raise InputError("an image was added twice", "every image once", "merge its detections first")
        boxes = np.concatenate([part.boxes for part in parts])
        tables = [part.masks for part in parts if part.masks is not None]
        masks = MaskTable.concatenate(tables) if tables else None
        if masks is not None and len(masks) != len(boxes):
            found = f"{len(masks)} masks for {len(boxes)} boxes"
            raise InputError(found, "masks for all boxes or none", "add the masks")
        first_box = offsets_of([len(part.boxes) for part in parts])
        index = [part.box_index + first for part, first in zip(parts, first_box[:-1], strict=True)]
        return cls(
            image_ids=ids,
            offsets=offsets_of(np.concatenate([np.diff(part.offsets) for part in parts])),
            category_ids=np.concatenate([part.category_ids for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            box_index=np.concatenate(index).astype(np.int32),
            boxes=boxes,
            masks=masks,
        )

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
        return replace(
            self,
            offsets=offsets_of(np.bincount(self.image_of_row[rows], minlength=len(self.image_ids))),
            category_ids=self.category_ids[rows],
            scores=self.scores[rows],
            box_index=self.box_index[rows],
        )

    def compacted(self) -> Self:
        """The same without boxes and masks that no detection uses."""
        used, index = np.unique(self.box_index, return_inverse=True)
        masks = None if self.masks is None else self.masks.take(used)
        return replace(self, box_index=index.astype(np.int32), boxes=self.boxes[used], masks=masks)

    def capped(self, per_image: int = MAX_DETECTIONS) -> Self:
        """The best detections of each image over all classes; of equal scores the earlier rows stay.

        This comes before any filter by annotated categories: the other way round inflates AP.
        """
        counts = np.diff(self.offsets)
        if not counts.size or counts.max() <= per_image:
            return self
        return self.take(np.sort(best_of_groups(self.image_of_row, self.scores, per_image)))

    def best_of_categories(self, per_category: int = PER_CATEGORY) -> Self:
        """What fixed AP counts: the best of each category over all images; ties go to the earlier rows."""
        best = best_of_groups(self.category_ids, self.scores, per_category)
        return self if len(best) == len(self) else self.take(np.sort(best))


_NOTHING = Detections(
    image_ids=(),
    offsets=np.zeros(1, np.int64),
    category_ids=np.zeros(0, np.int64),
    scores=np.zeros(0, np.float32),
    box_index=np.zeros(0, np.int32),
    boxes=np.zeros((0, 4), np.float32),
    masks=None,
)


def best_of_groups(groups: np.ndarray, scores: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` of each group [n], group by group by falling score; ties to the earlier."""
    order = np.lexsort((-scores, groups))  # stable
    return order[ranks(groups[order]) < most]
