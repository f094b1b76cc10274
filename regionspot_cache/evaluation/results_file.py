"""COCO results files: detections out and in, an image or an entry at a time."""

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from regionspot_cache.errors import InputError
from regionspot_cache.evaluation.detections import Detections, MaskTable
from regionspot_cache.evaluation.rle import Rle, mask_box
from regionspot_cache.files import replacing
from regionspot_cache.json_stream import json_entries, write_json_array

IouType = Literal["bbox", "segm"]


def write_results(path: Path, detections: Detections, iou_type: IouType = "bbox") -> None:
    """Writes a COCO results list, whole or not at all; numbers keep every bit.

    "segm" entries have no bbox: lvis takes the area of the box instead of the mask's where both are there.

    Raises:
        InputError: "segm" for detections without masks.
    """
    with replacing(path) as staging:
        images = range(len(detections.image_ids))
        write_json_array(staging, (image_entries(detections, image, iou_type) for image in images))


def image_entries(detections: Detections, image: int, iou_type: IouType) -> list[dict[str, Any]]:
    """The result entries of the image with this index, as lvis and pycocotools take them."""
    rows = detections.rows(image)
    shapes = _rles(detections, rows) if iou_type == "segm" else _xywh(detections, rows)
    key = "segmentation" if iou_type == "segm" else "bbox"
    image_id = detections.image_ids[image]
    categories, scores = detections.category_ids[rows].tolist(), detections.scores[rows].tolist()
    return [
        {"image_id": image_id, "category_id": category, key: shape, "score": score}
        for category, score, shape in zip(categories, scores, shapes, strict=True)
    ]


def _xywh(detections: Detections, rows: slice) -> list[list[float]]:
    boxes = detections.boxes[detections.box_index[rows]].astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes.tolist()


def _rles(detections: Detections, rows: slice) -> list[Rle]:
    index = detections.box_index[rows]
    if detections.masks is None:
        if len(index):
            raise InputError("the detections have no masks", "a mask for every box", "evaluate boxes only")
        return []
    used, inverse = np.unique(index, return_inverse=True)
    rles = [{**rle, "counts": rle["counts"].decode("ascii")} for rle in detections.masks.rles(used)]
    return [rles[i] for i in inverse]


def read_results(path: Path) -> Detections:
    """Reads a COCO results list; entries of an image need not stand together.

    Images are in the order of their first entry, entries of an image in file order (this decides between
    equal scores). An entry without bbox gets the bounding box of its mask.

    Raises:
        MissingFileError, InputError: no such file, or an entry that is no detection.
    """
    columns = _Columns()
    for entry in _result_entries(path):
        try:
            columns.add(entry)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: entry {len(columns.scores)} is no detection ({type(error).__name__}: {error})",
                "image_id, category_id, score and bbox [x, y, w, h] or segmentation {size, counts}",
                "write the file as a COCO results list",
            ) from None
    return columns.detections(path)


def _result_entries(path: Path) -> Iterator[Any]:
    for key, entry in json_entries(path):
        if key is not None:
            raise InputError(
                f"{path} holds a dictionary", "a COCO results list", "write a list of detections"
            )
        yield entry


class _Columns:
    """Growing flat arrays: about 60 bytes a detection, against 600 as dictionaries."""

    def __init__(self) -> None:
        self.index: dict[int | str, int] = {}
        self.images, self.categories = array("i"), array("i")
        self.scores, self.boxes = array("d"), array("d")
        self.counts, self.offsets, self.sizes = bytearray(), array("q", [0]), array("i")

    def add(self, entry: dict[str, Any]) -> None:
        mask = entry.get("segmentation")
        x, y, w, h = entry["bbox"] if "bbox" in entry else mask_box(entry["segmentation"])
        category, score = int(entry["category_id"]), float(entry["score"])
        self.boxes.extend((x, y, x + w, y + h))
        # Polygons of a box, as some tools add them, are no mask.
        if isinstance(mask, dict):
            self.sizes.extend(mask["size"])
            self.counts += mask["counts"].encode("ascii")
            self.offsets.append(len(self.counts))
        self.images.append(self.index.setdefault(entry["image_id"], len(self.index)))
        self.categories.append(category)
        self.scores.append(score)

    def detections(self, path: Path) -> Detections:
        count = len(self.scores)
        scores, images = np.frombuffer(self.scores), np.frombuffer(self.images, np.int32)
        if not np.isfinite(scores).all():
            raise InputError(f"{path}: a score is not finite", "finite scores", "remove that detection")
        if len(self.offsets) - 1 not in (0, count):
            raise InputError(
                f"{path}: {len(self.offsets) - 1} of {count} entries have masks",
                "all or none",
                "remove the masks",
            )
        order = np.argsort(images, kind="stable")
        return Detections(
            image_ids=tuple(self.index),
            offsets=np.searchsorted(images[order], np.arange(len(self.index) + 1)).astype(np.int64),
            category_ids=np.frombuffer(self.categories, np.int32)[order],
            scores=scores[order],
            box_index=order.astype(np.int32),
            boxes=np.frombuffer(self.boxes).reshape(-1, 4),
            masks=self._masks(count),
        )

    def _masks(self, count: int) -> MaskTable | None:
        if not count or len(self.offsets) == 1:
            return None
        return MaskTable(
            data=bytes(self.counts),
            offsets=np.frombuffer(self.offsets, np.int64),
            sizes=np.frombuffer(self.sizes, np.int32).reshape(-1, 2),
        )
