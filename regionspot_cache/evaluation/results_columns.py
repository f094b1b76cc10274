"""The detections of a results file as growing flat arrays: about 60 bytes each, not 600 as dictionaries."""

from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as brief
from typing import Any

import numpy as np

from regionspot_cache.datasets.tables import offsets_of
from regionspot_cache.datasets.values import TextIds, check_image_id, integers, is_int64, numbers, places
from regionspot_cache.errors import InputError
from regionspot_cache.evaluation.detections import Detections, MaskTable
from regionspot_cache.evaluation.ground_truth import GroundTruth
from regionspot_cache.evaluation.rle import annotation_rle, check_fills, fills, mask_box

_OUTSIDE = -1
_FARTHEST = 1 << 31  # pixels of any coordinate; areas stay far from overflow


class ResultColumns:
    """Takes entries in the order of the file.

    Attributes:
        outside: detections of images that are not wanted, by image id.
    """

    def __init__(self, path: Path, truth: GroundTruth | None) -> None:
        self._path, self._truth = path, truth
        self._wanted = places(truth.image_ids if truth else (), "the evaluated images")
        # Nothing depends on the masks of other pairs, and they are most of the memory.
        self._judged = truth.judged if truth else None
        self._texts = TextIds(str(path))
        self._place: dict[int | str, int] = {}
        self.outside: Counter[int | str] = Counter()
        self.images, self.categories = array("i"), array("q")
        self.scores, self.boxes = array("d"), array("d")
        self._counts, self._offsets, self._mask_sizes = bytearray(), array("q", [0]), array("i")
        self._box_polygons = 0

    def add(self, entry: dict[str, Any]) -> None:
        """One entry of a COCO results list. Raises what a malformed entry gives rise to."""
        image_id = entry["image_id"]
        if type(image_id) is not int and type(image_id) is not str:  # 7.0 and 7 are one key of a dictionary
            check_image_id(image_id)
        place = self._place_of(image_id)
        if place == _OUTSIDE:
            self.outside[image_id] += 1
            return
        category = _category(entry["category_id"])
        mask = entry.get("segmentation") or None
        if mask is not None and not (isinstance(mask, dict) and isinstance(mask["counts"], str)):
            mask = self._run_lengths(mask, place, entry.get("bbox"))
        x, y, w, h = entry["bbox"] if "bbox" in entry else _around(mask)
        self.boxes.extend((x, y, x + w, y + h))
        if mask is not None:
            height, width = mask["size"]
            counts = mask["counts"]
            self._mask_sizes.extend((height, width))
            if not counts:
                raise ValueError("empty run lengths")
            if self._judged is None or (place, category) in self._judged:
                self._counts += counts.encode("ascii") if isinstance(counts, str) else counts
            self._offsets.append(len(self._counts))
        self.images.append(place)
        self.categories.append(category)
        self.scores.append(entry["score"])

    def add_image(self, image_id: int | str, entry: dict[str, Any]) -> None:
        """The entry of an image in a GLIP dictionary. Raises what a malformed one gives rise to."""
        boxes, scores = numbers(entry["boxes"], 4), numbers(entry["scores"])
        labels = integers(entry["labels"])
        if not len(boxes) == len(labels) == len(scores):
            raise ValueError(f"{len(boxes)} boxes, {len(labels)} labels, {len(scores)} scores")
        place = self._place_of(image_id)
        if place == _OUTSIDE:
            self.outside[image_id] += len(scores)
            return
        self.images.extend([place] * len(scores))
        self.categories.frombytes(labels.tobytes())
        self.scores.frombytes(scores.tobytes())
        self.boxes.frombytes(boxes.tobytes())

    def _place_of(self, image_id: int | str) -> int:
        place = self._place.get(image_id)
        if place is None:
            check_image_id(image_id)
            text = self._texts.text(image_id)
            place = self._wanted.get(text, _OUTSIDE) if self._truth else len(self._place)
            self._place[image_id] = place
        return place

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

    def detections(self) -> Detections:
        """Everything that was added, gathered by image.

        Raises:
            InputError: numbers that are not finite, or masks that do not fit.
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
            masks=self._masks(images),
        )

    def _masks(self, images: np.ndarray) -> MaskTable | None:
        count = len(self._offsets) - 1
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
        offsets = np.frombuffer(self._offsets, np.int64)
        kept = np.diff(offsets) > 0  # the others are empty here
        if broken := np.count_nonzero(kept & ~fills(self._counts, offsets, sizes)):
            raise InputError(
                f"{self._path}: {broken} of {count} masks have run lengths that do not fill their image",
                "compressed run lengths as pycocotools.mask.encode writes them",
                "write the file again, or remove the masks",
            )
        return MaskTable(data=self._counts, offsets=offsets, sizes=sizes)


def _category(value: Any) -> int:
    """An id as 3 or "3"; a name, 3.5 or true is none."""
    category = value if type(value) is int else int(value)
    if not is_int64(category) or isinstance(value, bool) or (isinstance(value, float) and value != category):
        raise ValueError(f"category_id {brief(value)} is no integer of 64 bits")
    return category


def _around(mask: dict[str, Any] | None) -> list[float]:
    if mask is None:
        raise KeyError("bbox")
    check_fills(mask)
    return mask_box(mask)


def _is_box(polygons: Any, box: Sequence[float]) -> bool:
    """Whether the polygons are the four corners of the box."""
    x, y, w, h = box
    corners = {(x, y), (x + w, y), (x + w, y + h), (x, y + h)}
    points = polygons[0] if isinstance(polygons, list) and len(polygons) == 1 else []
    return len(points) == 8 and set(zip(points[::2], points[1::2], strict=True)) == corners
