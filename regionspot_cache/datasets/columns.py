"""The entries of a COCO-style annotation file as compact columns, checked entry by entry."""

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.assemble import FileBoxes
from regionspot_cache.datasets.formats import O365_V2_ABSENT, o365_version
from regionspot_cache.datasets.images import is_utf8, safe_file_name
from regionspot_cache.datasets.json_arrays import JsonArrays
from regionspot_cache.datasets.records import ImageId
from regionspot_cache.errors import InputError

UNSAFE_NAME = "image: file name leaves the image folder"
NO_SIZE = "image: size not positive"
KNOWN_ABSENT = "image: known to be absent from the archives"

EntryReader = Callable[[str, Any], None]  # takes the key of a section and each of its entries

_REQUIRED = ("images", "annotations", "categories")
_INT64 = range(-(2**63), 2**63)
_V3DET_KEYS = ("cat_info", "name_zh", "exemplar_image")


@dataclass(kw_only=True, eq=False)
class Columns:
    """The file's entries. `codes` numbers image ids as they are met, for sections come in any order."""

    codes: dict[ImageId, int] = field(default_factory=dict)
    image_codes: array = field(default_factory=lambda: array("q"))
    image_ids: list[ImageId] = field(default_factory=list)
    file_names: list[str] = field(default_factory=list)
    widths: array = field(default_factory=lambda: array("i"))
    heights: array = field(default_factory=lambda: array("i"))
    box_codes: array = field(default_factory=lambda: array("q"))
    box_corners: array = field(default_factory=lambda: array("f"))
    box_categories: array = field(default_factory=lambda: array("q"))
    box_ids: array = field(default_factory=lambda: array("q"))
    box_crowd: array = field(default_factory=lambda: array("b"))
    categories: list[dict[str, Any]] = field(default_factory=list)
    federated: bool = False  # LVIS: images state which classes were checked
    v3det: bool = False
    dropped: Counter[str] = field(default_factory=Counter)
    keys: list[str] = field(default_factory=list)
    arrays: list[str] = field(default_factory=list)
    sha256: str = ""

    def add_annotation(self, entry: dict[str, Any]) -> None:
        x, y, width, height = entry["bbox"]
        self.box_corners.extend((x, y, x + width, y + height))
        self.box_codes.append(self.codes.setdefault(_image_id(entry["image_id"]), len(self.codes)))
        self.box_categories.append(entry["category_id"])
        self.box_ids.append(entry["id"])
        group = entry.get("iscrowd") or entry.get("ignore") or 0
        if group not in (0, 1):
            raise ValueError(f"`iscrowd` or `ignore` is {group!r}, neither 0 nor 1")
        self.box_crowd.append(group)

    def add_image(self, entry: dict[str, Any]) -> None:
        image_id, file_name = _image_id(entry["id"]), safe_file_name(_file_name(entry))
        width, height = _side(entry, "width"), _side(entry, "height")
        self.federated |= "neg_category_ids" in entry
        if file_name is None or min(width, height) <= 0:
            self.dropped[UNSAFE_NAME if file_name is None else NO_SIZE] += 1
            return
        self.image_codes.append(self.codes.setdefault(image_id, len(self.codes)))
        self.image_ids.append(image_id)
        self.file_names.append(file_name)
        self.widths.append(width)
        self.heights.append(height)

    def add_category(self, entry: dict[str, Any]) -> None:
        frequency = entry.get("frequency")
        self.categories.append(
            {
                "id": _category_id(entry["id"]),
                "name": _text(entry["name"], "name").strip(),
                "frequency": frequency if frequency in ("r", "c", "f") else "",  # of LVIS; others count
                "novel": entry.get("novel") is True,
            }
        )
        self.v3det |= any(key in entry for key in _V3DET_KEYS)

    @property
    def names_by_id(self) -> dict[int, str]:
        return {category["id"]: category["name"] for category in self.categories}

    @property
    def format(self) -> str:
        if self.federated:
            return "lvis"
        if self.v3det:
            return "v3det"
        return o365_version(self.names_by_id) or "coco"

    def check(self, file: Path) -> None:
        """Refuses files from which no dataset can be made.

        Raises:
            InputError: a section is missing, no image is usable, or an id is listed twice or beyond 64 bits.
        """
        missing = [key for key in _REQUIRED if key not in self.arrays]
        expected = "A JSON object with lists `images`, `annotations` and `categories`."
        if missing:
            other = "no list" if missing[0] in self.keys else "no"
            found = f"{file} has {other} `{missing[0]}`; it has {', '.join(self.keys) or 'no keys'}."
            raise InputError(found, expected, "Give an instances file, not captions or image infos.")
        if not self.image_ids:
            counts = "".join(f"; {count} x {reason}" for reason, count in self.dropped.items())
            raise InputError(f"{file} lists no usable image{counts}.", expected, "Check the file.")
        self._check_image_ids(file)
        _require_unique(file, "class", [c["id"] for c in self.categories])
        _require_unique(file, "annotation", np.asarray(self.box_ids))

    def _check_image_ids(self, file: Path) -> None:
        """Plans and results keep ids as text, so that 1 and "1" would be one image."""
        texts = [image_id for image_id in self.codes if type(image_id) is str]
        for image_id in self.codes:
            if type(image_id) is int and image_id not in _INT64:
                found = f"{file} has image id {image_id}, which 64 bits do not hold."
                raise InputError(found, "Whole numbers of 64 bits, or texts.", "Renumber them.")
        if bad := next((text for text in texts if not is_utf8(text)), None):
            raise InputError(
                f"{file} has image id {bad!r}, which is no text.", "Unicode text.", "Correct it."
            )
        if both := next((text for text in texts if _as_number(text) in self.codes), None):
            found = f"{file} has image id {both} as a number and as the text {both!r}."
            raise InputError(found, "One kind of id for an image.", "Write all ids as numbers.")
        _require_unique(file, "image", self.image_ids)

    def drop_absent_images(self) -> None:
        """Drops the three images that Objects365 v2 annotates but does not ship."""
        gone = {i for i, file_name in enumerate(self.file_names) if file_name.endswith(O365_V2_ABSENT)}
        if not gone:
            return
        self.dropped[KNOWN_ABSENT] += len(gone)
        for name in ("image_codes", "image_ids", "file_names", "widths", "heights"):
            column = getattr(self, name)
            for i in sorted(gone, reverse=True):
                del column[i]

    def rename_classes(self, rename: Callable[[str], str]) -> None:
        for category in self.categories:
            category["name"] = rename(category["name"])

    def boxes(self, category_ids: NDArray[np.int64], file: Path) -> FileBoxes:
        """The annotations with indices for ids."""
        index_of_code = np.full(len(self.codes), -1, np.int64)
        index_of_code[np.asarray(self.image_codes)] = np.arange(len(self.image_ids))
        images = index_of_code[np.asarray(self.box_codes)]
        if len(images) and images.max() < 0:
            found = f"Not one of the {len(images)} annotations in {file} is of a usable image in it."
            raise InputError(found, "The same ids in `image_id` and in `images`.", "Check the ids.")
        return FileBoxes(
            images=images,
            boxes=np.asarray(self.box_corners).reshape(-1, 4),
            labels=self._labels(category_ids, file),
            ids=np.asarray(self.box_ids),
            crowd=np.asarray(self.box_crowd).astype(bool),
        )

    def _labels(self, category_ids: NDArray[np.int64], file: Path) -> NDArray[np.int32]:
        found = np.asarray(self.box_categories)
        labels = np.searchsorted(category_ids, found).astype(np.int32)
        known = np.isin(found, category_ids)
        if not known.all():
            first = int(np.argmin(known))
            raise InputError(
                f"Annotation {self.box_ids[first]} in {file} has class id {found[first]}, which `categories` "
                f"lacks ({np.count_nonzero(~known)} such annotations).",
                f"One of the {len(category_ids)} class ids of the file.",
                "Class list and annotations are from different releases: fetch the file again.",
            )
        return labels


def read_columns(file: Path, also: EntryReader | None = None) -> Columns:
    """Reads a file in one pass, which `also` may share.

    Raises:
        MissingFileError: no such file.
        InputError: broken JSON, or an entry without what it must have.
    """
    columns = Columns()
    add = {
        "images": columns.add_image,
        "annotations": columns.add_annotation,
        "categories": columns.add_category,
    }
    entries = JsonArrays(file)
    for key, entry in entries:
        if key in add:
            try:
                add[key](entry)
            except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
                raise _unusable(file, key, entry, error) from None
        if also is not None:
            also(key, entry)
    columns.keys, columns.arrays, columns.sha256 = entries.keys, entries.arrays, entries.sha256
    return columns


_EXPECTED = {
    "images": "`id`, `width`, `height` and `file_name` (LVIS: `coco_url`).",
    "annotations": "`id`, `image_id`, `category_id` (integers) and `bbox` [left, top, width, height].",
    "categories": "`id` (integer) and `name`.",
}


def _unusable(file: Path, key: str, entry: Any, error: Exception) -> InputError:
    shown = entry.get("id", entry) if isinstance(entry, dict) else entry
    which = ("id " if shown is not entry else "") + repr(shown)[:80]
    problem = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be used: {error}"
    if not isinstance(entry, dict):
        problem = "cannot be used: it is no object"
    return InputError(
        f"{file}: the entry of `{key}` with {which} {problem}.",
        f"Each entry has {_EXPECTED[key]}",
        "Add what is missing, or remove the entry.",
    )


def _require_unique(file: Path, kind: str, ids: Sequence[ImageId] | NDArray[np.int64]) -> None:
    number = len(np.unique(ids)) if isinstance(ids, np.ndarray) else len(set(ids))
    if number < len(ids):
        twice = next(value for value, count in Counter(ids).items() if count > 1)
        found = f"{file} lists {kind} id {twice} more than once."
        raise InputError(found, f"Unique {kind} ids.", "Renumber them, or fetch the file again.")


def _image_id(value: Any) -> ImageId:
    if type(value) is int or type(value) is str:  # True and False are integers too
        return value
    raise TypeError(f"image id {value!r} is neither an integer nor a text")


def _as_number(text: str) -> int | None:
    """The integer that is written exactly so."""
    number = int(text) if len(text) < 20 and text.removeprefix("-").isdecimal() else None
    return number if str(number) == text else None


def _category_id(value: Any) -> int:
    if type(value) is not int or value not in _INT64:
        raise TypeError(f"class id {value!r} is no integer of 64 bits")
    return value


def _side(entry: dict[str, Any], name: str) -> int:
    """A width or height: whole, but perhaps written as a decimal fraction."""
    value = entry[name]
    if type(value) is not int and not (isinstance(value, float) and value.is_integer()):
        raise TypeError(f"{name} {value!r} is no whole number of pixels")
    return int(value)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not is_utf8(value):
        raise TypeError(f"{name} {value!r} is no text")
    return value


def _file_name(entry: dict[str, Any]) -> str:
    """LVIS v1 has only `coco_url`; v0.5 has another year's name beside it. The end of the URL is right."""
    file_name, url = entry.get("file_name"), entry.get("coco_url")
    if url and (file_name is None or _text(file_name, "file_name").startswith("COCO_")):
        return "/".join(_text(url, "coco_url").split("/")[-2:])
    return _text(entry["file_name"], "file_name")
