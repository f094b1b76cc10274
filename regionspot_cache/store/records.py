"""Small JSON objects that carry their own checksum: cache.json, part specs, markers, the manifest.

The bytes on disk are canonical (sorted keys, fixed layout), and reading demands exactly those bytes, so a
single flipped byte anywhere, white space included, is noticed. `parse` demands the fields, types and ranges
of a dataclass too, so that no later line meets anything else.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Annotated, Any, TypeVar

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from regionspot_cache.errors import DamageError

CHECKSUM_KEY = "record_sha256"
T = TypeVar("T")

Count = Annotated[int, Field(ge=0, le=2**53)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def digest(data: bytes | memoryview) -> str:
    """SHA-256 of `data`, in hex."""
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, one key a line, ASCII."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"


def to_record(value: Mapping[str, Any]) -> bytes:
    """Canonical JSON of `value` with its own SHA-256 inside."""
    return canonical({**value, CHECKSUM_KEY: digest(canonical(dict(value)))})


def from_record(data: bytes, key: str) -> dict[str, Any]:
    """The value that `to_record` wrote.

    Raises:
        DamageError: the bytes are not exactly those that were written; `key` is named.
    """
    value: dict[str, Any] = {}
    try:
        value = json.loads(data)
        value.pop(CHECKSUM_KEY)
        whole = to_record(value) == data
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise DamageError(
            f"{key} is damaged: it does not match its own checksum",
            "the exact bytes that were written",
            "rs-cache verify CACHE --full lists every damaged object of the cache",
        )
    return value


def parse(cls: type[T], value: Mapping[str, Any], key: str) -> T:
    """The dataclass `cls` that a record holds: these fields, and values that it would write the same way.

    Raises:
        DamageError: names `key` and the first field that is something else.
    """
    try:
        found = _adapter(cls).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(step) for step in first["loc"]) or "its values"
        raise _unreadable(key, f"{field}: {first['msg']}") from None
    # Conversions (true for 1, "1" for 1) and keys that `cls` does not know show up here.
    again = json.loads(canonical(asdict(found)))  # pyrefly: ignore[bad-argument-type]
    for field in sorted(again.keys() | value.keys()):
        if field not in again or canonical(again[field]) != canonical(value.get(field)):
            raise _unreadable(key, f"{field} is not what this version writes")
    return found


def _unreadable(key: str, detail: str) -> DamageError:
    return DamageError(
        f"{key} cannot be used although its checksum is right: {detail}",
        "a record that this version of regionspot-cache wrote",
        "restore it from a copy, or delete the cache and run rs-cache extract again",
    )


@lru_cache
def _adapter(cls: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(cls)
