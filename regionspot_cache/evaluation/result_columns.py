"""Detections of a results file in columns, as they are read: about 60 bytes each, not 600 as dictionaries."""

from array import array
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from reprlib import repr as brief
from typing import Annotated, Any

import msgspec
import numpy as np

from regionspot_cache.datasets.tables import offsets_of
from regionspot_cache.datasets.values import (
    TextIds,
    check_image_id,
    integers,
    is_int64,
    numbers,
    places,
)
from regionspot_cache.errors import InputError
from regionspot_cache.evaluation.detections import Detections, MaskTable
from regionspot_cache.evaluation.ground_truth import GroundTruth
from regionspot_cache.evaluation.rle import annotation_rle, check_fills, checked_areas, mask_box
from regionspot_cache.shared_work import shared_work

_OUTSIDE = -1
_BYTES_AT_ONCE = 1 << 23  # of run lengths: a quarter of a second of checking them
_FARTHEST = 1 << 31  # pixels of any coordinate; areas stay far from overflow


class _Mask(msgspec.Struct, gc=False):
    """Compressed run lengths."""

    size: tuple[int, int]
    counts: Annotated[str, msgspec.Meta(min_length=1)]


class ResultEntry(msgspec.Struct, gc=False):
    """An entry of a COCO results list as most systems write it: decoded at once, without dictionaries."""

    image_id: int | str
    category_id: Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
    score: float
    bbox: tuple[float, float, float, float]
    segmentation: _Mask | None = None


class _Places(dict[int | str, int]):
    """The index of each image by its id as a file writes it; `_OUTSIDE` for those that are not wanted."""

    def __init__(self, path: Path, truth: GroundTruth | None) -> None:
        self._wanted = places(truth.image_ids, "the evaluated images") if truth else None
        self._texts = TextIds(str(path))

    def __missing__(self, image_id: int | str) -> int:
        check_image_id(image_id)
        text = self._texts.text(image_id)
        self[image_id] = len(self) if self._wanted is None else self._wanted.get(text, _OUTSIDE)
        return self[image_id]


class ResultColumns:
    """Takes entries in the order of the file; `outside` counts those of images that are not wanted, by id."""

    def __init__(self, path: Path, truth: GroundTruth | None) -> None:
        self._path, self._truth = path, truth
        # Nothing depends on the masks of other pairs, and they are most of the memory.
        self._judged = truth.judged if truth else None
        self._place = _Places(path, truth)
        self.outside: Counter[int | str] = Counter()
        self.images, self.categories = array("i"), array("q")
        self.scores, self.boxes = array("d"), array("d")
        self._counts, self._mask_lengths, self._mask_sizes = bytearray(), array("i"), array("i")
        self._box_polygons = 0

    def add(self, entries: Sequence[Any]) -> None:
        """Entries of a COCO results list. What a malformed one gives rise to ends the reading."""
        some = [entry if type(entry) is ResultEntry else self._entry(entry) for entry in entries]
        images = [self._place[entry.image_id] for entry in some]
        if _OUTSIDE in images:
            self.outside.update(e.image_id for e, i in zip(some, images, strict=True) if i == _OUTSIDE)
            some = [entry for entry, image in zip(some, images, strict=True) if image != _OUTSIDE]
            images = [image for image in images if image != _OUTSIDE]
        categories = [entry.category_id for entry in some]
        self.images.extend(images)
        self.categories.extend(categories)
        self.scores.extend([entry.score for entry in some])
        boxes = np.frombuffer(array("d", chain.from_iterable([entry.bbox for entry in some]))).reshape(-1, 4)
        with np.errstate(all="ignore"):  # `detections` says what is not finite
            self.boxes.frombytes(np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]).tobytes())
        masks = [entry.segmentation for entry in some]
        counts = [
            mask.counts if self._judged is None or pair in self._judged else ""
            for mask, pair in zip(masks, zip(images, categories, strict=True), strict=True)
            if mask is not None
        ]
        self._counts += "".join(counts).encode("ascii")
        self._mask_lengths.extend(map(len, counts))
        self._mask_sizes.extend(chain.from_iterable([mask.size for mask in masks if mask is not None]))

    def _entry(self, entry: dict[str, Any]) -> ResultEntry:
        """An entry that is written in any other way."""
        image_id = entry["image_id"]
        check_image_id(image_id)  # 7.0 and 7 are one key of a dictionary
        place = self._place[image_id]
        if place == _OUTSIDE:
            return ResultEntry(image_id, 0, 0.0, (0.0, 0.0, 0.0, 0.0))
        mask = entry.get("segmentation") or None
        if mask is not None and not (isinstance(mask, dict) and isinstance(mask["counts"], str)):
            mask = self._run_lengths(mask, place, entry.get("bbox"))
        if "bbox" not in entry and mask is not None:
            check_fills(mask)
        x, y, w, h = entry["bbox"] if "bbox" in entry or mask is None else mask_box(mask)
        if mask is not None:
            (height, width), counts = mask["size"], mask["counts"]
            if not counts:
                raise ValueError("empty run lengths")
            mask = _Mask((height, width), counts.decode("ascii") if isinstance(counts, bytes) else counts)
        return ResultEntry(image_id, _category(entry["category_id"]), entry["score"], (x, y, w, h), mask)

    def add_image(self, image_id: int | str, entry: dict[str, Any]) -> None:
        """The entry of an image in a GLIP dictionary. Raises what a malformed one gives rise to."""
        if image_id in self._place:
            raise ValueError("an earlier entry has the same key")
        boxes, scores = numbers(entry["boxes"], 4), numbers(entry["scores"])
        labels = integers(entry["labels"])
        if not len(boxes) == len(labels) == len(scores):
            raise ValueError(f"{len(boxes)} boxes, {len(labels)} labels, {len(scores)} scores")
        place = self._place[image_id]
        if place == _OUTSIDE:
            self.outside[image_id] += len(scores)
            return
        self.images.extend([place] * len(scores))
        self.categories.frombytes(labels.tobytes())
        self.scores.frombytes(scores.tobytes())
        self.boxes.frombytes(boxes.tobytes())

    def _run_lengths(self, mask: Any, place: int, box: Sequence[float] | None) -> dict[str, Any] | None:
        """Compressed run lengths of polygons or plain counts; None where the image's size is not known."""
        if isinstance(mask, dict):
            return annotation_rle(mask, *mask["size"])
        if not all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in mask):
            raise ValueError("a polygon of less than three points")
        if self._truth is None:
            return None
        self._box_polygons += box is not None and _is_box(mask, box)
        return annotation_rle(mask, *self._truth.sizes[place].tolist())

    def detections(self, processes: int = 1) -> Detections:
        """Everything that was added, by image; InputError for infinite numbers and masks that do not fit.

        At most so many `processes` check the masks, this one among them.
        """
        scores, images = np.frombuffer(self.scores), np.frombuffer(self.images, np.int32)
        boxes = np.frombuffer(self.boxes).reshape(-1, 4)
        near = np.abs(boxes).max(axis=1, initial=0) < _FARTHEST
        for what, good in (("score", np.isfinite(scores)), ("box", near)):
            if broken := int(np.count_nonzero(~good)):
                found = f"{self._path}: {broken} of {len(scores)} detections have a {what} that is not finite"
                raise InputError(found, f"a finite {what}, in pixels", "remove those detections")
        ids = tuple(self._truth.image_ids if self._truth else self._place)
        order = np.argsort(images, kind="stable")
        return Detections(
            image_ids=ids,
            offsets=offsets_of(np.bincount(images, minlength=len(ids))),
            category_ids=np.frombuffer(self.categories, np.int64)[order],
            scores=scores[order],
            box_index=order.astype(np.int32),
            boxes=boxes,
            masks=self._masks(images, processes),
        )

    def _masks(self, images: np.ndarray, processes: int) -> MaskTable | None:
        count = len(self._mask_lengths)
        if not count or self._box_polygons == count:
            return None
        if count != len(images):
            found = f"{self._path}: {count} of {len(images)} entries have masks"
            raise InputError(found, "all or none", "remove the masks")
        sizes = np.frombuffer(self._mask_sizes, np.int32).reshape(-1, 2)
        right = self._truth.sizes[images] if self._truth else sizes
        if (wrong := (sizes != right).any(axis=1)).any():
            found, wanted = (side[np.argmax(wrong)].tolist() for side in (sizes, right))
            raise InputError(
                f"{self._path}: {np.count_nonzero(wrong)} of {count} masks are not of their image's size",
                f"height and width of the annotation file, {wanted} where the first of them has {found}",
                "write masks at the size of the original image",
            )
        lengths = np.frombuffer(self._mask_lengths, np.int32)
        offsets = offsets_of(lengths)
        areas = _areas(self._counts, offsets, sizes, processes)
        areas[lengths == 0] = 0  # not kept
        if broken := np.count_nonzero(areas < 0):
            raise InputError(
                f"{self._path}: {broken} of {count} masks have run lengths that do not fill their image",
                "compressed run lengths as pycocotools.mask.encode writes them",
                "write the file again, or remove the masks",
            )
        return MaskTable(data=self._counts, offsets=offsets, sizes=sizes, areas=areas)


def _areas(data: bytearray, offsets: np.ndarray, sizes: np.ndarray, processes: int) -> np.ndarray:
    """As `checked_areas`, by several processes where there is much."""
    starts = np.searchsorted(offsets, np.arange(0, offsets[-1], _BYTES_AT_ONCE))
    cuts = np.unique(np.append(starts, len(sizes))).tolist()

    def part(first: int, last: int) -> tuple[bytes, np.ndarray, np.ndarray]:
        own = offsets[first : last + 1]
        return bytes(data[own[0] : own[-1]]), own - own[0], sizes[first:last]

    with shared_work(checked_areas, [partial(part, *rows) for rows in pairwise(cuts)], processes) as areas:
        return np.concatenate([np.zeros(0, np.int64), *areas()])


def _category(value: Any) -> int:
    """An id as 3 or "3"; a name, 3.5 or true is none."""
    category = value if type(value) is int else int(value)
    if not is_int64(category) or isinstance(value, bool) or (isinstance(value, float) and value != category):
        raise ValueError(f"category_id {brief(value)} is no integer of 64 bits")
    return category


def _is_box(polygons: Any, box: Sequence[float]) -> bool:
    """Whether the polygons are the four corners of the box."""
    x, y, w, h = box
    corners = {(x, y), (x + w, y), (x + w, y + h), (x, y + h)}
    points = polygons[0] if isinstance(polygons, list) and len(polygons) == 1 else []
    return len(points) == 8 and set(zip(points[::2], points[1::2], strict=True)) == corners
