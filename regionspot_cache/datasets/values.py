"""Values from files: ids, which files and systems write now as 7 and now as "7", and arrays of numbers."""

from collections.abc import Iterable
from reprlib import repr as brief
from typing import Any

import numpy as np

from regionspot_cache.errors import InputError

_LOWEST, _BEYOND = -(1 << 63), 1 << 63
_EXACT = 1 << 53  # whole numbers below are exact in floating point


def is_int64(value: Any) -> bool:
    """Whether a value is an integer (and no bool) of 64 bits."""
    return type(value) is int and _LOWEST <= value < _BEYOND


def check_image_id(value: Any) -> None:
    """Raises ValueError for what is neither an integer of 64 bits nor a text."""
    if type(value) is str:
        value.encode()  # a lone surrogate can be neither printed nor written
    elif not is_int64(value):
        raise ValueError(f"image id {brief(value)} is neither an integer of 64 bits nor a text")


class TextIds:
    """The ids of one source as texts, by which they are compared with those of other sources."""

    def __init__(self, source: str) -> None:
        """`source` names the file or set in errors."""
        self._source = source
        self._seen: dict[str, int | str] = {}

    def text(self, image_id: int | str) -> str:
        """The id as text.

        Raises:
            InputError: the source has both 7 and "7".
        """
        text = str(image_id)
        first = self._seen.setdefault(text, image_id)
        if isinstance(first, str) is not isinstance(image_id, str):
            raise InputError(
                f"{self._source}: the image ids {text} and {text!r} are two images in one file",
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
