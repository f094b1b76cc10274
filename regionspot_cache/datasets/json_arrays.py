"""Annotation files: a JSON object of arrays, read entry by entry in one pass."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regionspot_cache.errors import InputError
from regionspot_cache.json_stream import JsonWindow, open_json


class JsonArrays:
    """The arrays at the top level of a JSON object.

    Attributes:
        keys: top-level keys met so far, whatever their values.
        arrays: those of arrays.
        sha256: hex digest of the file; set when the iteration is over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: list[str] = []
        self.arrays: list[str] = []
        self.sha256 = ""

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Yields (key, entry) for each entry of each array, in file order.

        Raises:
            MissingFileError: no such file.
            InputError: not a JSON object, broken or cut off; names the file and the byte.
        """
        with open_json(self.path) as window:
            self._require_object(window)
            for key in window.member_names():
                self.keys.append(key)
                if window.peek() == "[":
                    self.arrays.append(key)
                    for entry in window.elements():
                        yield key, entry
                else:
                    window.value()
            self.sha256 = window.finish()

    def _require_object(self, window: JsonWindow) -> None:
        first = window.peek()
        if first != "{":
            found = {"": "is empty", "[": "holds a list"}.get(first, f"begins with {first!r}")
            raise InputError(
                f"{self.path} {found}.",
                "A JSON object with `images`, `annotations` and `categories`.",
                "Boxes of a detector go to eval as --proposals FILE.",
            )
