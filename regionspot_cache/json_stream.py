"""Large JSON files entry by entry, in and out: memory follows the largest entry, not the file."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from regionspot_cache.errors import InputError, MissingFileError

_CHUNK = 1 << 20  # characters
_DECODER = json.JSONDecoder()
_ENCODER = json.JSONEncoder(allow_nan=False)
_AFTER_VALUE = tuple(" \t\r\n,:]}")


def json_entries(path: Path) -> Iterator[tuple[str | None, Any]]:
    """Yields the entries of the array or object at the top of a JSON file.

    Returns:
        (None, value) for every element of an array, (key, value) for every member of an object.

    Raises:
        MissingFileError: no such file.
        InputError: neither an array nor an object, cut off, or not JSON.
    """
    try:
        file = path.open(encoding="utf-8")
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist", "a JSON file", "check the path") from None
    with file:
        try:
            yield from _Entries(file, path)
        except UnicodeDecodeError as error:
            raise _broken(path, str(error)) from None


def _broken(path: Path, detail: str) -> InputError:
    return InputError(
        f"{path} is not readable JSON: {detail}",
        "one JSON array or object",
        "write the file again; it may be cut off",
    )


class _Entries:
    """A window over the text, decoded entry by entry with the C scanner of the json module."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self.file, self.path = file, path
        self.text, self.at, self.ended = "", 0, False

    def __iter__(self) -> Iterator[tuple[str | None, Any]]:
        opening = self._peek()
        if opening not in ("[", "{"):
            raise _broken(self.path, "it starts with neither [ nor {")
        self.at += 1
        closing = "]" if opening == "[" else "}"
        if self._peek() == closing:
            return
        while True:
            key = self._key() if opening == "{" else None
            yield key, self._value()
            separator = self._peek()
            if separator == closing:
                return
            if separator != ",":
                raise _broken(self.path, "a comma or the end of the list is missing")
            self.at += 1

    def _key(self) -> str:
        key = self._value()
        if not isinstance(key, str) or self._peek() != ":":
            raise _broken(self.path, "a member without a name")
        self.at += 1
        return key

    def _value(self) -> Any:
        self._peek()  # skips white space
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if not self._more():
                    raise _broken(self.path, error.msg) from None
                continue
            # What looks like a whole number may go on behind the window: 1 is not yet 1.5e3.
            if self.text[end : end + 1] not in _AFTER_VALUE and self._more():
                continue
            self.at = end
            return value

    def _peek(self) -> str:
        """The next character that is not white space, "" at the end of the file."""
        while True:
            while self.at < len(self.text):
                if not self.text[self.at].isspace():
                    return self.text[self.at]
                self.at += 1
            if not self._more():
                return ""

    def _more(self) -> bool:
        # Doubling keeps the work linear when one entry is longer than a chunk.
        chunk = self.file.read(max(_CHUNK, len(self.text) - self.at))
        self.text, self.at = self.text[self.at :] + chunk, 0
        return bool(chunk)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write beside `path` that takes its place when the block ends, and only if it ends well."""
    staging = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield staging
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


def write_json_array(path: Path, groups: Iterable[list[Any]]) -> None:
    """Writes the values of all groups as one array, a group at a time and a value on each line."""
    separator = "["
    with path.open("w", encoding="utf-8") as file:
        for group in groups:
            for value in group:
                file.write(f"{separator}\n{_ENCODER.encode(value)}")
                separator = ","
        file.write("[]\n" if separator == "[" else "\n]\n")
