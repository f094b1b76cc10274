"""The entries of a COCO-style annotation file as compact columns, checked entry by entry."""

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.assemble import FileBoxes
from regionspot_cache.datasets.images import safe_file_name
from regionspot_cache.datasets.objects365 import V2_ABSENT, o365_version
from regionspot_cache.datasets.records import ImageId
from regionspot_cache.datasets.values import (
    ENTRY_ERRORS,
    category_id,
    check_image_id,
    places,
    side,
    text,
    unusable_entry,
)
from regionspot_cache.errors import InputError
from regionspot_cache.json_stream import JsonFile

UNSAFE_NAME = "image: file name leaves the image folder"
NO_SIZE = "image: size not positive"
KNOWN_ABSENT = "image: known to be absent from the archives"

EntryReader = Callable[[str, Any], None]  # takes the key of a section and each of its entries

_REQUIRED = ("images", "annotations", "categories")
_V3DET_KEYS = ("cat_info", "name_zh", "exemplar_image")


class Category(NamedTuple):
    """A class of the file."""

    id: int
    name: str
    frequency: str  # "r", "c", "f" (LVIS) or ""
    novel: bool


class Columns:
    """The file's entries, an array a column."""

    def __init__(self) -> None:
        self.codes: dict[ImageId, int] = {}  # image ids are numbered as met, for sections come in any order
        self.image_codes, self.widths, self.heights = array("q"), array("i"), array("i")
        self.image_ids: list[ImageId] = []
        self.file_names: list[str] = []
        self.box_codes, self.box_categories, self.box_ids = array("q"), array("q"), array("q")
        self.box_corners, self.box_crowd = array("f"), array("b")
        self.categories: list[Category] = []
        self.federated = False  # LVIS: images state which classes were checked
        self.v3det = False
        self.dropped: Counter[str] = Counter()
        self.sha256 = ""

    def add(self, section: str, entries: list[Any], file: Path) -> None:
        """Takes entries of a section; those of others are passed over. InputError for an unusable one."""
        if section not in _REQUIRED or (section == "annotations" and self._add_annotations(entries)):
            return
        add_one = {"images": self._add_image, "annotations": self._add_annotation}
        for entry in entries:
            try:
                add_one.get(section, self._add_category)(entry)
            except ENTRY_ERRORS as error:
                raise unusable_entry(file, section, entry, error) from None

    def _add_annotations(self, entries: list[dict[str, Any]]) -> bool:
        """Takes all entries a column at a time, five times as fast, or none: False when one is not plain."""
        try:
            boxes = np.array([entry["bbox"] for entry in entries])
            images = [entry["image_id"] for entry in entries]
            categories = array("q", [entry["category_id"] for entry in entries])
            ids = array("q", [entry["id"] for entry in entries])
            crowd = array("b", [entry.get("iscrowd") or entry.get("ignore") or 0 for entry in entries])
            plain = boxes.dtype.kind in "if" and boxes.shape == (len(entries), 4)
            if not plain or not set(crowd) <= {0, 1} or not {*map(type, images)} <= {int, str}:
                return False
            codes = array("q", map(self._code, images))
        except ENTRY_ERRORS:
            return False
        boxes[:, 2:] += boxes[:, :2]
        with np.errstate(over="ignore"):  # becomes infinite, as in an array of single numbers
            self.box_corners.frombytes(boxes.astype(np.float32).tobytes())
        self.box_codes += codes
        self.box_categories += categories
        self.box_ids += ids
        self.box_crowd += crowd
        return True

    def _add_annotation(self, entry: dict[str, Any]) -> None:
        x, y, width, height = entry["bbox"]
        self.box_corners.extend((x, y, x + width, y + height))
        self.box_codes.append(self._code(entry["image_id"]))
        self.box_categories.append(entry["category_id"])
        self.box_ids.append(entry["id"])
        group = entry.get("iscrowd") or entry.get("ignore") or 0
        if group not in (0, 1):
            raise ValueError(f"`iscrowd` or `ignore` is {group!r}, neither 0 nor 1")
        self.box_crowd.append(group)

    def _add_image(self, entry: dict[str, Any]) -> None:
        code, file_name = self._code(entry["id"]), safe_file_name(_file_name(entry))
        width, height = side(entry, "width"), side(entry, "height")
        self.federated |= "neg_category_ids" in entry
        if file_name is None or min(width, height) <= 0:
            self.dropped[UNSAFE_NAME if file_name is None else NO_SIZE] += 1
            return
        self.image_codes.append(code)
        self.image_ids.append(entry["id"])
        self.file_names.append(file_name)
        self.widths.append(width)
        self.heights.append(height)

    def _add_category(self, entry: dict[str, Any]) -> None:
        frequency = entry.get("frequency")
        category = Category(
            category_id(entry["id"]),
            text(entry["name"], "name").strip(),
            frequency if frequency in ("r", "c", "f") else "",  # other data sets write counts
            entry.get("novel") is True,
        )
        self.categories.append(category)
        self.v3det |= any(key in entry for key in _V3DET_KEYS)

    def _code(self, image_id: Any) -> int:
        code = self.codes.get(image_id) if type(image_id) is int or type(image_id) is str else None
        if code is None:
            check_image_id(image_id)
            code = self.codes[image_id] = len(self.codes)
        return code

    @property
    def names_by_id(self) -> dict[int, str]:
        return {category.id: category.name for category in self.categories}

    @property
    def format(self) -> str:
        if self.federated:
            return "lvis"
        return "v3det" if self.v3det else o365_version(self.names_by_id) or "coco"

    def drop_absent_images(self) -> None:
        """Drops the three images that Objects365 v2 annotates but does not ship."""
        gone = [i for i, file_name in enumerate(self.file_names) if file_name.endswith(V2_ABSENT)]
        for i in reversed(gone):
            for column in (self.image_codes, self.image_ids, self.file_names, self.widths, self.heights):
                del column[i]
        if gone:
            self.dropped[KNOWN_ABSENT] += len(gone)

    def boxes(self, category_ids: NDArray[np.int64], file: Path) -> FileBoxes:
        """The annotations with indices for ids; `category_ids` [C] are those of the file, rising."""
        index_of_code = np.full(len(self.codes), -1, np.int64)
        index_of_code[np.asarray(self.image_codes)] = np.arange(len(self.image_ids))
        images = index_of_code[np.asarray(self.box_codes)]
        if len(images) and images.max() < 0:
            found = f"Not one of the {len(images)} annotations in {file} is of a usable image in it."
            raise InputError(found, "The same ids in `image_id` and in `images`.", "Check the ids.")
        categories = np.asarray(self.box_categories)
        known = np.isin(categories, category_ids)
        if not known.all():
            first = int(np.argmin(known))
            raise InputError(
                f"Annotation {self.box_ids[first]} in {file} has class id {categories[first]}, which "
                f"`categories` lacks ({np.count_nonzero(~known)} such annotations).",
                f"One of the {len(category_ids)} class ids of the file.",
                "Class list and annotations are from different releases: fetch the file again.",
            )
        return FileBoxes(
            images=images,
            boxes=np.asarray(self.box_corners).reshape(-1, 4),
            labels=np.searchsorted(category_ids, categories).astype(np.int32),
            ids=np.asarray(self.box_ids),
            crowd=np.asarray(self.box_crowd).astype(bool),
        )


def read_columns(path: Path, also: EntryReader | None = None) -> Columns:
    """Reads a file in one pass, which `also` may share; errors as of `read_coco_style`."""
    columns, file = Columns(), JsonFile(path)
    for key, entries in file.batches():
        columns.add(key, entries, path)
        if also is not None:
            for entry in entries:
                also(key, entry)
    columns.sha256 = file.sha256
    _check(columns, file)
    return columns


def _check(columns: Columns, file: JsonFile) -> None:
    expected = "A JSON object with lists `images`, `annotations` and `categories`."
    if missing := [key for key in _REQUIRED if key not in file.arrays]:
        other = "no list" if missing[0] in file.keys else "no"
        found = f"{file.path} has {other} `{missing[0]}`; it has {', '.join(file.keys) or 'no keys'}."
        raise InputError(found, expected, "Give an instances file, not captions or image infos.")
    if not columns.image_ids:
        counts = "".join(f"; {count} x {reason}" for reason, count in columns.dropped.items())
        raise InputError(f"{file.path} lists no usable image{counts}.", expected, "Check the file.")
    if any(type(image_id) is str for image_id in columns.codes):
        places(columns.codes, str(file.path))  # plans keep ids as text, where 1 and "1" would be one image
    require_unique(file.path, "image", columns.image_ids)
    require_unique(file.path, "class", [category.id for category in columns.categories])
    require_unique(file.path, "annotation", np.asarray(columns.box_ids))


def require_unique(file: Path, kind: str, ids: Sequence[ImageId] | NDArray[np.int64]) -> None:
    """Refuses ids that a file lists twice."""
    if isinstance(ids, np.ndarray):
        ordered = np.sort(ids)  # np.unique without an index hashes, which is ten times as slow
        repeated = bool((ordered[1:] == ordered[:-1]).any())
    else:
        repeated = len(set(ids)) < len(ids)
    if repeated:
        twice = next(value for value, count in Counter(ids).items() if count > 1)
        found = f"{file} lists {kind} id {twice} more than once."
        raise InputError(found, f"Unique {kind} ids.", "Renumber them, or fetch the file again.")


def _file_name(entry: dict[str, Any]) -> str:
    """LVIS v1 has only `coco_url`; v0.5 has another year's name beside it. The end of the URL is right."""
    file_name, url = entry.get("file_name"), entry.get("coco_url")
    if url and (file_name is None or text(file_name, "file_name").startswith("COCO_")):
        return "/".join(text(url, "coco_url").split("/")[-2:])
    return text(entry["file_name"], "file_name")
