"""Entries of a COCO- or LVIS-style annotation file, checked where they come in: later code trusts them."""

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from regionspot_cache.datasets.json_arrays import JsonArrays
from regionspot_cache.datasets.values import TextIds, check_image_id, is_int64
from regionspot_cache.errors import InputError

SECTIONS = ("images", "annotations", "categories")
_LARGEST = 1 << 31  # coordinate or side; no image is larger
_LOWEST, _LARGEST_AREA = -_LARGEST, _LARGEST**2
_FLAGS = ("iscrowd", "ignore")


class Annotations(dict[str, list[dict[str, Any]]]):
    """The lists `images`, `annotations` and `categories`, every entry of which has passed the checks here.

    Polygons are flat arrays: 8 bytes a number, not 32.
    """


class AnnotationReader:
    """Takes the entries of a file one after the other."""

    def __init__(self, source: str) -> None:
        """`source` names the file in errors."""
        self._source = source
        self._content = Annotations({section: [] for section in SECTIONS})
        self._image_ids = TextIds(source)
        self._unique: dict[str, set[Any]] = {"images": set(), "categories": set()}

    def add(self, section: str, entry: Any) -> None:
        """One entry, which from now on belongs to the reader; those of other sections are passed over.

        Raises:
            InputError: an entry without what evaluation needs, of a wrong type, or with an id a second time.
        """
        check = _CHECKS.get(section)
        if check is None:
            return
        try:
            checked = check(entry)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._unusable(section, error) from None
        self._content[section].append(checked)
        if section in self._unique:
            self._register(section, checked["id"])

    def finish(self) -> Annotations:
        """Everything that was added."""
        return self._content

    def _register(self, section: str, value: int | str) -> None:
        if section == "images":
            self._image_ids.text(value)
        if value in self._unique[section]:
            raise InputError(
                f"{self._source} lists the id {value!r} of `{section}` more than once",
                "every id once",
                "renumber them, or fetch the file again",
            )
        self._unique[section].add(value)

    def _unusable(self, section: str, error: Exception) -> InputError:
        number = len(self._content[section])
        problem = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be used ({error})"
        return InputError(
            f"{self._source}: entry {number} of `{section}` {problem}",
            f"{_EXPECTED[section]}",
            "complete the annotation file, or remove the entry",
        )


def load_annotations(source: Path | str | Mapping[str, Any]) -> Annotations:
    """The checked entries of an annotation file, or of a dictionary, which stays as it is.

    Raises:
        MissingFileError, InputError: no such file, broken JSON, or not a COCO-style dictionary.
    """
    if isinstance(source, Annotations):
        return source
    keys: Iterable[str]
    if isinstance(source, Mapping):
        keys = [name for name in SECTIONS if isinstance(source.get(name), Sequence)]
        entries = ((name, copy(entry)) for name in keys for entry in source[name])
    else:
        entries = JsonArrays(Path(source))
        keys = entries.keys  # which fill as the entries are read
    reader = AnnotationReader("the ground truth" if isinstance(source, Mapping) else str(source))
    for section, entry in entries:
        reader.add(section, entry)
    if not set(SECTIONS) <= set(keys):
        raise InputError(
            "the ground truth is no COCO-style dictionary",
            "images, annotations and categories",
            "give the annotation file of the dataset",
        )
    return reader.finish()


def _image(entry: Any) -> dict[str, Any]:
    check_image_id(entry["id"])
    kept = {"id": entry["id"], "height": _side(entry["height"]), "width": _side(entry["width"])}
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        if key in entry:
            if type(entry[key]) is not list or not all(map(is_int64, entry[key])):
                raise ValueError(f"{key} is no list of integers")
            kept[key] = entry[key]
    if "coco_url" in entry:
        kept["coco_url"] = str(entry["coco_url"])
    return kept


def _side(value: Any) -> int:
    """A whole number, perhaps written as a decimal fraction; images of no size are the dataset's matter."""
    if type(value) not in (int, float) or not _LOWEST < value < _LARGEST or value != int(value):
        raise ValueError(f"a side of {brief(value)} pixels")
    return int(value)


def _annotation(entry: Any) -> dict[str, Any]:
    check_image_id(entry["image_id"])
    if not is_int64(entry["category_id"]):
        raise ValueError(f"category_id {brief(entry['category_id'])} is no integer of 64 bits")
    left, top, width, height = entry["bbox"]
    # Comparing raises TypeError for what is no number, and is false for NaN.
    near = _LOWEST < left < _LARGEST and _LOWEST < top < _LARGEST
    if not (near and _LOWEST < width < _LARGEST and _LOWEST < height < _LARGEST):
        raise ValueError(f"bbox {brief(entry['bbox'])} is not four pixel coordinates")
    if "area" in entry and not -_LARGEST_AREA < entry["area"] < _LARGEST_AREA:
        raise ValueError(f"area {brief(entry['area'])} is no number of pixels")
    for flag in _FLAGS:
        if flag in entry and entry[flag] not in (0, 1):  # False == 0, True == 1
            if entry[flag] is not None:
                raise ValueError(f"{flag} {brief(entry[flag])} is neither 0 nor 1")
            entry[flag] = 0
    if "segmentation" in entry:
        entry["segmentation"] = _segmentation(entry["segmentation"])
    return entry


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


def _category(entry: Any) -> dict[str, Any]:
    if not is_int64(entry["id"]):
        raise ValueError(f"id {brief(entry['id'])} is no integer of 64 bits")
    frequency = entry.get("frequency") or ""
    if type(frequency) is not str:
        raise ValueError(f"frequency {brief(frequency)} is no text")
    return {"id": entry["id"], "frequency": frequency}


_CHECKS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "images": _image,
    "annotations": _annotation,
    "categories": _category,
}
_EXPECTED = {
    "images": "id, height and width, and lists of category ids where LVIS has them",
    "annotations": "image_id, category_id and bbox [x, y, width, height] of numbers; area, iscrowd, ignore "
    "and segmentation as COCO and LVIS have them",
    "categories": "id, an integer; frequency, a text",
}
