"""Large JSON files entry by entry, in and out: memory follows the largest entry, not the file.

The elements of an array that lie in one window are decoded at once by msgspec, more than twice as fast as by
the json module. What it refuses (the NaN that Python writes, lone surrogates, mistakes) is decoded again by
the C scanner of the json module, one by one: values and errors are those of json. Readers of events are
slower when one file has several arrays.
"""

import codecs
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from regionspot_cache.errors import InputError
from regionspot_cache.files import open_file

MemberKind = Literal["array", "entries", "value"]

_CHUNK = 1 << 18  # bytes; what is decoded at once stays in the cache of a core
_LARGEST_ENTRY = 1 << 28  # characters; beyond this the file is no list of entries
# A decoding error this close to the end of the window may only mean that the entry continues.
_TAIL = 32
_SPACE = re.compile(r"[ \t\r\n]*")
_NEXT = re.compile(r"[ \t\r\n]*,[ \t\r\n]*[\[{]")  # what stands between two arrays or objects
_CLOSING = {"[": "]", "{": "}"}
_ENCODER = json.JSONEncoder(allow_nan=False)
_REMEDY = "Fetch or write the file again and compare its size or checksum with the source."


class JsonFile:
    """A JSON file with an array or an object at the top, read once, in order.

    Attributes:
        path: of the file.
        opening: "[" or "{".
        keys: of the object at the top, as far as they were read.
        arrays: those of `keys` whose values are arrays; only `sections` knows them.
        sha256: hex digest of the file, when everything was read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.opening, self.sha256 = path, "", ""
        self.keys: list[str] = []
        self.arrays: list[str] = []

    def entries(self) -> Iterator[tuple[str | None, Any]]:
        """Yields (None, value) for every element of an array, (key, value) for every member of an object.

        Raises MissingFileError, and InputError for neither, cut off or not JSON, with the file and the byte.
        """
        for key, values in self.pieces():
            for value in values:
                yield key, value

    def pieces(self, kind: Any = Any) -> Iterator[tuple[str | None, list[Any]]]:
        """As `entries`, but yields elements of an array together, as many as come at once.

        Where all of them but the first are of a `kind` that msgspec decodes, they are decoded as that.
        """
        with open_file(self.path, "A JSON file.") as file:
            window = _Window(file, self.path, kind)
            self.opening = window.peek()
            if self.opening == "[":
                yield from ((None, values) for values in window.elements())
            else:
                for key in window.entries():
                    yield key, [window.value()]
            self.sha256 = window.finish()

    def sections(self) -> Iterator[tuple[str, Any]]:
        """Yields (key, entry) for every entry of every array in an object; an array at the top is refused."""
        for key, entries in self.batches():
            for entry in entries:
                yield key, entry

    def batches(self) -> Iterator[tuple[str, list[Any]]]:
        """As `sections`, but yields entries that follow each other together, as many as come at once."""
        return ((key, value) for key, kind, value in self.members() if kind == "entries")

    def members(self) -> Iterator[tuple[str, MemberKind, Any]]:
        """As `batches`, and (key, "array", None) before them, and (key, "value", value) of other members."""
        with open_file(self.path, "A JSON file.") as file:
            window = _Window(file, self.path)
            self.opening = window.peek()
            if self.opening != "{":
                problem = {"": "is empty", "[": "holds a list"}
                raise InputError(
                    f"{self.path} {problem.get(self.opening, f'begins with {self.opening!r}')}.",
                    "A JSON object with `images`, `annotations` and `categories`.",
                    "Boxes of a detector go to eval as --proposals FILE.",
                )
            for key in window.entries():
                self.keys.append(key)
                if window.peek() != "[":
                    yield key, "value", window.value()
                    continue
                self.arrays.append(key)
                yield key, "array", None
                for entries in window.elements():
                    yield key, "entries", entries
            self.sha256 = window.finish()


class _Window:
    """A part of the file as text, and a position in it."""

    def __init__(self, file: BinaryIO, path: Path, kind: Any = Any) -> None:
        self._file, self._path = file, path
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._scan = json.JSONDecoder().raw_decode
        self._sha = hashlib.sha256()
        self._decoders = [msgspec.json.Decoder(list[some]).decode for some in dict.fromkeys((kind, Any))]
        self._text, self._at, self._ended = "", 0, False
        self._refused = False  # msgspec found something in this window that it does not decode
        self._bytes_read = 0

    def peek(self) -> str:
        """The next character that is not white space; "" at the end of the file."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._grow():
                return ""

    def entries(self) -> Iterator[Any]:
        """The keys of the object, or None for each element of the array; `value` must take what follows."""
        closing = _CLOSING[self._take("[{")]
        if self.peek() == closing:
            self._at += 1
            return
        following = ","
        while following == ",":
            key = self._key() if closing == "}" else None
            yield key
            following = self._take("," + closing)

    def elements(self) -> Iterator[list[Any]]:
        """The values of the array at the position, in pieces."""
        for _ in self.entries():
            yield [self.value(), *self._many()]

    def _many(self) -> list[Any]:
        """Further elements behind the one that ends at the position: those that are whole in the window.

        They are taken to end where the last separator like the first one stands. That may be inside of an
        element or behind the array; but then the text up to there, in brackets, is no JSON.
        """
        separator = _NEXT.match(self._text, self._at)
        if separator is None or self._refused:
            return []
        end = self._text.rfind(self._text[self._at - 1 : separator.end()], self._at) + 1
        if end <= self._at:
            return []
        text = f"[{self._text[separator.end() - 1 : end]}]"
        for decode in self._decoders:
            with suppress(msgspec.DecodeError, RecursionError):
                values = decode(text)
                self._at = end
                return values
        self._refused = True
        return []

    def value(self) -> Any:
        """Decodes the value at the position and steps behind it."""
        self.peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                unfinished = error.msg.startswith("Unterminated string")
                position = len(self._text) if unfinished else error.pos
                may_continue = position >= len(self._text) - _TAIL
                if not (may_continue and len(self._text) - self._at < _LARGEST_ENTRY and self._grow()):
                    raise self._broken(error.msg, position) from None
            except (RecursionError, ValueError) as error:
                raise self._broken(str(error), self._at) from None
            else:
                # A number at the end of the window may go on behind it: `1`, `1.` and `1e+` read as 1.
                if end < len(self._text) - 2 or not self._grow():
                    self._at = end
                    return value

    def finish(self) -> str:
        """Checks that nothing follows; the file's SHA-256."""
        if self.peek():
            raise self._unexpected("the end of the file")
        return self._sha.hexdigest()

    def _key(self) -> str:
        if self.peek() != '"':
            raise self._unexpected("a key in double quotes")
        key = self.value()
        self._take(":")
        return key

    def _take(self, choices: str) -> str:
        """Steps over the next character, which must be one of the choices."""
        found = self.peek()
        if not found or found not in choices:
            raise self._unexpected(" or ".join(map(repr, choices)))
        self._at += 1
        return found

    def _grow(self) -> bool:
        """Reads on, twice as far for an entry that does not fit; False at the end of the file."""
        data = self._file.read(max(_CHUNK, len(self._text) - self._at)) if not self._ended else b""
        if not data:
            self._ended = True
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
        self._text, self._at = self._text[self._at :] + new, 0
        self._refused = False
        return True

    def _unexpected(self, expected: str) -> InputError:
        found = repr(self._text[self._at : self._at + 1])
        return self._broken(found, self._at, f"Expected {expected} there.")

    def _broken(self, problem: str, at: int, expected: str = "A complete JSON file.") -> InputError:
        """The error for what is found at a position in the window."""
        pending = len(self._decode.getstate()[0])
        byte = self._bytes_read - pending - len(self._text[at:].encode("utf-8", "surrogatepass"))
        found = f"{self._path} is not valid JSON: {problem} at byte {byte}."
        if self._ended and at >= len(self._text.rstrip()):
            found = f"{self._path} is cut off: it ends at byte {self._bytes_read}, before its JSON does."
        return InputError(found, expected, _REMEDY)


def write_json_array(path: Path, groups: Iterable[list[Any]]) -> None:
    """Writes the values of all groups as one array, a group at a time and a value on each line."""
    separator = "["
    with path.open("w", encoding="utf-8") as file:
        for group in groups:
            for value in group:
                file.write(f"{separator}\n{_ENCODER.encode(value)}")
                separator = ","
        file.write("[]\n" if separator == "[" else "\n]\n")
