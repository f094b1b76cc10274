"""Annotations of a COCO- or LVIS-style file in columns, as average precision needs them."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as brief
from typing import Any

import numpy as np

from regionspot_cache.datasets.values import (
    ENTRY_ERRORS,
    category_id,
    check_image_id,
    is_int64,
    places,
    side,
    unusable_entry,
)
from regionspot_cache.errors import InputError
from regionspot_cache.json_stream import JsonFile

SECTIONS = ("images", "annotations", "categories")
_LARGEST = 1 << 31  # coordinate; no image is larger
_NOT_LISTED = -1


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """Boxes to find, by image and category, then in the order of the file; and what was looked for where."""

    # [M], sorted: among equal scores the order of images decides, as in lvis and pycocotools
    image_ids: tuple[int | str, ...]
    sizes: np.ndarray  # i32 [M,2], height and width
    category_ids: np.ndarray  # i64 [C], sorted
    frequency: tuple[str, ...] | None  # [C] of "r", "c", "f", or None where the file does not say
    images: np.ndarray  # i64 [G], image index of each annotation
    categories: np.ndarray  # i64 [G], category index
    boxes: np.ndarray  # f64 [G,4] xywh, as in the file
    areas: np.ndarray  # f64 [G], as annotated, else of the box
    ignore: np.ndarray  # bool [G], annotations that count neither for nor against (crowds, in COCO)
    crowd: np.ndarray  # bool [G], annotations that may match many detections
    segmentations: list[Any]  # [G], as in the file
    has_masks: bool  # whether every annotation of the file has a segmentation
    federated: bool  # whether images name the categories that they were searched for (LVIS)
    negative: np.ndarray  # i64, sorted pair keys (see `pair_key`) of categories known to be absent
    not_exhaustive: np.ndarray  # i64, sorted pair keys of categories of which not all objects are annotated

    def pair_key(self, images: np.ndarray, categories: np.ndarray) -> np.ndarray:
        """One i64 for each (image index, category index), ordered by image."""
        return np.asarray(images, np.int64) * len(self.category_ids) + categories

    @property
    def pairs(self) -> np.ndarray:
        """i64 [G], rising: the pair key of each annotation."""
        return self.pair_key(self.images, self.categories)

    def pairs_of(self, keys: np.ndarray) -> Iterator[tuple[int, int]]:
        """(image index, category id) of pair keys."""
        image, category = np.divmod(keys, max(len(self.category_ids), 1))
        return zip(image.tolist(), self.category_ids[category].tolist(), strict=True)

    @property
    def judged(self) -> frozenset[tuple[int, int]] | None:
        """(image index, category id) of all that the annotations name, found or absent; None: everything."""
        return frozenset(self.pairs_of(np.union1d(self.pairs, self.negative))) if self.federated else None

    def mask(self, row: int) -> tuple[Any, int, int]:
        """The segmentation of annotation `row`, height and width, as `annotation_rle` takes them."""
        height, width = self.sizes[self.images[row]].tolist()
        return self.segmentations[row], height, width


def ground_truth(
    source: Path | str | Mapping[str, Any] | GroundTruth, image_ids: Iterable[int | str] | None = None
) -> GroundTruth:
    """The annotations of a file, or of a dictionary, which stays as it is; a ground truth is given back.

    Of `image_ids` only, unless None. Raises MissingFileError, and InputError as `JsonFile` and `TruthReader`.
    """
    if isinstance(source, GroundTruth):
        return source
    keys: Iterable[str]
    if isinstance(source, Mapping):
        keys = [name for name in SECTIONS if isinstance(source.get(name), Sequence)]
        entries = ((name, entry) for name in keys for entry in source[name])
    else:
        file = JsonFile(Path(source))
        keys, entries = file.keys, file.sections()  # keys fill as the entries are read
    reader = TruthReader("the ground truth" if isinstance(source, Mapping) else str(source))
    for section, entry in entries:
        reader.add(section, entry)
    if not set(SECTIONS) <= set(keys):
        raise InputError(
            "the ground truth is no COCO-style dictionary",
            "images, annotations and categories",
            "give the annotation file of the dataset",
        )
    return reader.finish(image_ids)


class TruthReader:
    """Takes the entries of a file one after the other, and checks them: later code trusts them.

    `images` holds what counts of the entries of that section, by id.
    """

    def __init__(self, source: str) -> None:
        """`source` names the file in errors."""
        self._source = source
        self.images: dict[int | str, dict[str, Any]] = {}
        self._frequency: dict[int, str] = {}
        # One row an annotation. Polygons are flat arrays: 8 bytes a number, not 32.
        self._image_of: list[int | str] = []
        self._categories, self._boxes, self._areas = array("q"), array("d"), array("d")
        self._crowd, self._ignore = array("b"), array("b")
        self._segmentations: list[Any] = []
        self._has_masks = True
        self._add = {"images": self._image, "annotations": self._annotation, "categories": self._category}

    def add(self, section: str, entry: Any) -> None:
        """Takes one entry, which stays as it is; those of other sections are passed over."""
        if section in self._add:
            try:
                self._add[section](entry)
            except ENTRY_ERRORS as error:
                raise unusable_entry(self._source, section, entry, error) from None

    def finish(
        self,
        image_ids: Iterable[int | str] | None = None,
        categories: Iterable[int] | None = None,
    ) -> GroundTruth:
        """Everything that was added, or only what is of these images and category ids.

        Annotations of categories that the file lacks are left out. LVIS annotations without area are too, as
        lvis does; COCO ones stay, as pycocotools does. Raises InputError for an annotation of an unknown
        image, or an image that the file lacks.
        """
        order = self._order(image_ids)
        image_index = {image_id: i for i, image_id in enumerate(order)}
        listed = self._frequency
        category_ids = sorted(listed if categories is None else listed.keys() & set(categories))
        category_index = {category: i for i, category in enumerate(category_ids)}
        images = [self.images[image_id] for image_id in order]
        federated = bool(images) and all("neg_category_ids" in image for image in images)
        image_of = np.array([image_index.get(i, _NOT_LISTED) for i in self._image_of], np.int64)
        category_of = np.array([category_index.get(c, _NOT_LISTED) for c in self._categories], np.int64)
        areas, flags = np.array(self._areas), np.array(self._ignore if federated else self._crowd, bool)
        counts = category_of != _NOT_LISTED
        if federated:
            counts &= areas > 0
        if image_ids is None:
            self._refuse_unlisted(counts & (image_of == _NOT_LISTED))
        rows = np.flatnonzero(counts & (image_of != _NOT_LISTED))
        rows = rows[np.lexsort((category_of[rows], image_of[rows]))]  # stable
        letters = tuple(self._frequency[category] for category in category_ids)
        return GroundTruth(
            image_ids=tuple(order),
            sizes=np.array([(i["height"], i["width"]) for i in images], np.int32).reshape(-1, 2),
            category_ids=np.array(category_ids, np.int64),
            frequency=letters if letters and set(letters) <= {"r", "c", "f"} else None,
            images=image_of[rows],
            categories=category_of[rows],
            boxes=np.array(self._boxes).reshape(-1, 4)[rows],
            areas=areas[rows],
            ignore=flags[rows],
            crowd=np.zeros(len(rows), bool) if federated else flags[rows],
            segmentations=[self._segmentations[row] for row in rows],
            has_masks=self._has_masks,
            federated=federated,
            negative=_pairs(images, category_index, "neg_category_ids"),
            not_exhaustive=_pairs(images, category_index, "not_exhaustive_category_ids"),
        )

    def _order(self, image_ids: Iterable[int | str] | None) -> list[int | str]:
        """The images by id, texts behind numbers."""
        places(self.images, self._source)
        order = sorted(self.images, key=lambda image_id: (isinstance(image_id, str), image_id))
        if image_ids is None:
            return order
        wanted = places(image_ids, "the evaluated images")
        order = [image_id for image_id in order if str(image_id) in wanted]
        if len(order) != len(wanted):
            raise InputError(
                f"{len(wanted) - len(order)} images are not in the ground truth",
                "images of the annotation file",
                "give the annotation file that the detections belong to",
            )
        return order

    def _refuse_unlisted(self, unlisted: np.ndarray) -> None:
        if unlisted.any():
            raise InputError(
                f"{np.count_nonzero(unlisted)} annotations of the ground truth are of images that it lacks, "
                f"for example {self._image_of[int(np.argmax(unlisted))]!r}",
                "image ids that `images` lists",
                "complete the annotation file",
            )

    def _image(self, entry: dict[str, Any]) -> None:
        check_image_id(entry["id"])
        _refuse_again(entry["id"], self.images)
        kept: dict[str, Any] = {name: side(entry, name) for name in ("height", "width")}
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            if key in entry:
                if type(entry[key]) is not list or not all(map(is_int64, entry[key])):
                    raise ValueError(f"{key} is no list of integers")
                kept[key] = entry[key]
        if "coco_url" in entry:
            kept["coco_url"] = str(entry["coco_url"])
        self.images[entry["id"]] = kept

    def _category(self, entry: dict[str, Any]) -> None:
        _refuse_again(category_id(entry["id"]), self._frequency)
        frequency = entry.get("frequency") or ""
        if type(frequency) is not str:
            raise ValueError(f"frequency {brief(frequency)} is no text")
        self._frequency[entry["id"]] = frequency

    def _annotation(self, entry: dict[str, Any]) -> None:
        check_image_id(entry["image_id"])
        left, top, width, height = box = entry["bbox"]
        # Comparing raises TypeError for what is no number, and is false for NaN.
        near = -_LARGEST < left < _LARGEST and -_LARGEST < top < _LARGEST
        if not (near and -_LARGEST < width < _LARGEST and -_LARGEST < height < _LARGEST):
            raise ValueError(f"bbox {brief(box)} is not four pixel coordinates")
        area = entry.get("area", width * height)
        if not -(_LARGEST**2) <= area <= _LARGEST**2:
            raise ValueError(f"area {brief(area)} is no number of pixels")
        category, crowd, ignore = (
            category_id(entry["category_id"]),
            _flag(entry, "iscrowd"),
            _flag(entry, "ignore"),
        )
        segmentation = _segmentation(entry.get("segmentation"))
        self._image_of.append(entry["image_id"])
        self._categories.append(category)
        self._boxes.extend((left, top, width, height))
        self._areas.append(area)
        self._crowd.append(crowd)
        self._ignore.append(ignore)
        self._segmentations.append(segmentation)
        self._has_masks &= "segmentation" in entry


def _pairs(images: list[dict[str, Any]], category_index: dict[int, int], field: str) -> np.ndarray:
    """Sorted pair keys of what the lists of ids in the images name."""
    named = [(i, c) for i, image in enumerate(images) for c in image.get(field, ())]
    keys = [i * len(category_index) + category_index[c] for i, c in named if c in category_index]
    return np.unique(np.array(keys, np.int64))


def _refuse_again(value: int | str, seen: Mapping[Any, object]) -> None:
    if value in seen:
        raise ValueError("its id is listed more than once")


def _flag(entry: dict[str, Any], name: str) -> int:
    value = entry.get(name)
    if value not in (None, 0, 1):  # False == 0, True == 1
        raise ValueError(f"{name} {brief(value)} is neither 0 nor 1")
    return int(bool(value))


def _segmentation(value: Any) -> Any:
    if type(value) is list:
        return [array("d", polygon) for polygon in value]
    if value is None:
        return None
    size, counts = value["size"], value["counts"]
    if len(size) != 2 or not all(map(is_int64, size)):
        raise ValueError(f"a mask of size {brief(size)}")
    if not isinstance(counts, str | bytes) and not (type(counts) is list and all(map(is_int64, counts))):
        raise ValueError("run lengths that are neither a text nor a list of integers")
    return {"size": size, "counts": counts}
