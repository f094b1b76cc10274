"""Large JSON files entry by entry, in and out: memory follows the largest entry, not the file."""

import codecs
import hashlib
import json
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from regionspot_cache.errors import InputError
from regionspot_cache.files import open_file

_CHUNK = 1 << 20  # bytes
_LARGEST_ENTRY = 1 << 28  # characters; beyond this the file is no list of entries
# A decoding error this close to the end of the window may only mean that the entry continues.
_TAIL = 32
_SPACE = re.compile(r"[ \t\r\n]*")
_ENCODER = json.JSONEncoder(allow_nan=False)
_REMEDY = "Fetch or write the file again and compare its size or checksum with the source."


def json_entries(path: Path) -> Iterator[tuple[str | None, Any]]:
    """Yields the entries of the array or object at the top of a JSON file.

    Returns:
        (None, value) for every element of an array, (key, value) for every member of an object.

    Raises:
        MissingFileError: no such file.
        InputError: neither an array nor an object, cut off, or not JSON.
    """
    with open_json(path) as window:
        opening = window.peek()
        if opening == "[":
            for value in window.elements():
                yield None, value
        elif opening == "{":
            for key in window.member_names():
                yield key, window.value()
        else:
            raise window.error("[ or {")
        window.finish()


@contextmanager
def open_json(path: Path) -> Generator["JsonWindow"]:
    """A window at the start of a file. Raises as `open_file`."""
    with open_file(path, "A JSON file.") as file:
        yield JsonWindow(file, path)


class JsonWindow:
    """A part of a JSON file as text, and a position in it; memory follows the largest entry, not the file.

    Values are decoded by the C scanner of the json module, and taken in the order of the file.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._scan = json.JSONDecoder().raw_decode
        self._sha = hashlib.sha256()
        self._text, self._position, self._at_end = "", 0, False
        self._bytes_read = 0

    def peek(self) -> str:
        """The next character that is not white space; "" at the end of the file."""
        while True:
            self._position = _SPACE.match(self._text, self._position).end()  # type: ignore[union-attr]
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._grow():
                return ""

    def skip(self) -> None:
        self._position += 1

    def expect(self, *characters: str) -> str:
        found = self.peek()
        if found not in characters or not found:
            raise self.error(" or ".join(map(repr, characters)))
        self.skip()
        return found

    def value(self) -> Any:
        """Decodes the value at the position and steps behind it."""
        self.peek()
        while True:
            try:
                value, end = self._scan(self._text, self._position)
            except json.JSONDecodeError as error:
                if not self._may_continue(error) or not self._grow():
                    raise self._broken(error) from None
            except (RecursionError, ValueError) as error:
                raise self.error(f"an ordinary entry ({error})") from None
            else:
                # A number at the end of the window may go on behind it: `1`, `1.` and `1e+` read as 1.
                if end < len(self._text) - 2 or not self._grow():
                    self._position = end
                    return value

    def elements(self) -> Generator[Any]:
        """The values of the array at the position."""
        self.skip()
        if self.peek() == "]":
            self.skip()
            return
        while True:
            yield self.value()
            if self.expect(",", "]") == "]":
                return

    def member_names(self) -> Iterator[str]:
        """The keys of the object at the position; at each of them the position is that of its value."""
        self.skip()
        if self.peek() == "}":
            self.skip()
            return
        while True:
            if self.peek() != '"':
                raise self.error("a key in double quotes")
            key = self.value()
            self.expect(":")
            yield key
            if self.expect(",", "}") == "}":
                return

    def finish(self) -> str:
        """Checks that nothing follows; the file's SHA-256."""
        if self.peek():
            raise self.error("the end of the file")
        return self._sha.hexdigest()

    def error(self, expected: str) -> InputError:
        found = self._text[self._position : self._position + 1]
        at = self._byte(self._position)
        if not found:
            return self._cut_off(at)
        return InputError(
            f"{self._path} is not valid JSON: {found!r} at byte {at}.",
            f"Expected {expected} there.",
            _REMEDY,
        )

    def _grow(self) -> bool:
        """Reads on, twice as far for an entry that does not fit; False at the end of the file."""
        if self._at_end:
            return False
        data = self._file.read(max(_CHUNK, len(self._text) - self._position))
        if not data:
            self._at_end = True
            return False
        self._sha.update(data)
        self._bytes_read += len(data)
        try:
            new = self._decode.decode(data)
        except UnicodeDecodeError as error:
            at = self._bytes_read - len(error.object) + error.start
            raise InputError(
                f"{self._path} is not UTF-8 text: byte {at} is {error.object[error.start]:#04x}.",
                "A JSON file, not compressed.",
                "Unpack the file, or save it as UTF-8.",
            ) from None
        self._text, self._position = self._text[self._position :] + new, 0
        return True

    def _may_continue(self, error: json.JSONDecodeError) -> bool:
        size = len(self._text) - self._position
        at_tail = error.pos >= len(self._text) - _TAIL or error.msg.startswith("Unterminated string")
        return at_tail and size < _LARGEST_ENTRY

    def _broken(self, error: json.JSONDecodeError) -> InputError:
        unfinished = error.msg.startswith("Unterminated string") or error.pos >= len(self._text.rstrip())
        if self._at_end and unfinished:
            return self._cut_off(self._bytes_read)
        return InputError(
            f"{self._path} is not valid JSON: {error.msg} at byte {self._byte(error.pos)}.",
            "A complete JSON file.",
            _REMEDY,
        )

    def _cut_off(self, at: int) -> InputError:
        return InputError(
            f"{self._path} is cut off: it ends at byte {at}, before its JSON does.",
            "A complete JSON file.",
            _REMEDY,
        )

    def _byte(self, position: int) -> int:
        """The file offset of a position in the window."""
        pending = len(self._decode.getstate()[0])
        return self._bytes_read - pending - len(self._text[position:].encode("utf-8", "surrogatepass"))


def write_json_array(path: Path, groups: Iterable[list[Any]]) -> None:
    """Writes the values of all groups as one array, a group at a time and a value on each line."""
    separator = "["
    with path.open("w", encoding="utf-8") as file:
        for group in groups:
            for value in group:
                file.write(f"{separator}\n{_ENCODER.encode(value)}")
                separator = ","
        file.write("[]\n" if separator == "[" else "\n]\n")
