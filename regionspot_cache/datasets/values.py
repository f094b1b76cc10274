"""Values from files: ids, which files and systems write now as 7 and now as "7", and arrays of numbers."""

from collections.abc import Iterable
from reprlib import repr as brief
from typing import Any

import numpy as np

from regionspot_cache.errors import InputError

_LOWEST, _BEYOND = -(1 << 63), 1 << 63
_EXACT = 1 << 53  # whole numbers below are exact in floating point
_LARGEST_SIDE = 1 << 31  # pixels

# What an entry of another type or without a key gives rise to while it is read.
ENTRY_ERRORS = (AttributeError, KeyError, TypeError, ValueError, OverflowError)
_ENTRIES = {
    "images": "`id`, `width`, `height` and `file_name` (LVIS: `coco_url`, and lists of class ids).",
    "annotations": "`id`, `image_id`, `category_id` (integers) and `bbox` [left, top, width, height]; "
    "`area`, `iscrowd`, `ignore` and `segmentation` as COCO and LVIS have them.",
    "categories": "`id` (integer) and `name`.",
}


def unusable_entry(source: object, section: str, entry: Any, error: Exception) -> InputError:
    """The error for an entry of a COCO-style file `source` that gave rise to one of ENTRY_ERRORS."""
    shown = entry.get("id", entry) if isinstance(entry, dict) else entry
    which = ("id " if shown is not entry else "") + repr(shown)[:80]
    problem = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be used: {error}"
    if not isinstance(entry, dict):
        problem = "cannot be used: it is no object"
    return InputError(
        f"{source}: the entry of `{section}` with {which} {problem}.",
        f"Each entry has {_ENTRIES[section]}",
        "Add what is missing, or remove the entry; boxes get names by rs-cache label."
        if error.args == ("category_id",)
        else "Add what is missing, or remove the entry.",
    )


def is_utf8(text: str) -> bool:
    """Whether text can be written to a file: it has no lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def text(value: Any, name: str) -> str:
    """A text that can be written. Raises TypeError for others, of which `name` says what they are."""
    if not isinstance(value, str) or not is_utf8(value):
        raise TypeError(f"{name} {value!r} is no text")
    return value


def is_int64(value: Any) -> bool:
    """Whether a value is an integer (and no bool) of 64 bits."""
    return type(value) is int and _LOWEST <= value < _BEYOND


def check_image_id(value: Any) -> None:
    """Raises ValueError for what is neither an integer of 64 bits nor a text."""
    if type(value) is str:
        value.encode()  # a lone surrogate can be neither printed nor written
    elif not is_int64(value):
        raise ValueError(f"image id {brief(value)} is neither an integer of 64 bits nor a text")


def category_id(value: Any) -> int:
    """The id of a class. Raises ValueError for what is no integer of 64 bits."""
    if not is_int64(value):
        raise ValueError(f"class id {value!r} is no integer of 64 bits")
    return value


def side(entry: dict[str, Any], name: str) -> int:
    """A width or height: whole, but perhaps written as a decimal fraction. Raises ValueError for others."""
    value = entry[name]
    whole = type(value) is int or (type(value) is float and value.is_integer())
    if not whole or not -_LARGEST_SIDE <= value < _LARGEST_SIDE:
        raise ValueError(f"{name} {brief(value)} is no whole number of pixels")
    return int(value)


class TextIds:
    """The ids of one source as texts, by which they are compared with those of other sources."""

    def __init__(self, source: str) -> None:
        """`source` names the file or set in errors."""
        self._source = source
        self._seen: dict[str, int | str] = {}

    def text(self, image_id: int | str) -> str:
        """The id as text. Raises InputError when the source has both 7 and "7"."""
        text = str(image_id)
        first = self._seen.setdefault(text, image_id)
        if isinstance(first, str) is not isinstance(image_id, str):
            raise InputError(
                f"{self._source} has image id {text} as a number and as the text {text!r}",
                "ids that differ as text, for other files may write either",
                "write all ids as numbers, or renumber the images",
            )
        return text


def places(image_ids: Iterable[int | str], source: str) -> dict[str, int]:
    """The place of each id in a list, by its text; errors as of `TextIds.text`."""
    ids = TextIds(source)
    return {ids.text(image_id): place for place, image_id in enumerate(image_ids)}


def numbers(values: Any, width: int | None = None) -> np.ndarray:
    """float64 [n], or [n, width], from nested lists or an array. Raises ValueError for anything else."""
    array = _array(values)
    if array.size and array.dtype.kind not in "fiub":
        raise ValueError(f"{brief(values)} are no numbers")
    row = () if width is None else (width,)
    if array.ndim == 0 or (array.size and array.shape[1:] != row):
        raise ValueError(f"an array of shape {list(array.shape)}")
    return array.astype(np.float64, copy=False).reshape(-1, *row)


def integers(values: Any) -> np.ndarray:
    """int64 [n] from a list or an array of whole numbers. Raises ValueError for anything else."""
    array = _array(values)
    whole = array.dtype.kind in "iu" and (array.size == 0 or array.max() < _BEYOND)
    if array.dtype.kind == "f":
        whole = bool((np.abs(array) < _EXACT).all()) and bool((array == np.trunc(array)).all())
    if array.ndim != 1 or not whole:
        raise ValueError(f"{brief(values)} are no integers of 64 bits")
    return array.astype(np.int64)


def _array(values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None
