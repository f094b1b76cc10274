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
from regionspot_cache.store.objects import Objects

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


def to_record(value: Any) -> bytes:
    """Canonical JSON of `value` with its own SHA-256 inside."""
    plain = dict(value) if isinstance(value, Mapping) else asdict(value)
    return canonical({**plain, CHECKSUM_KEY: digest(canonical(plain))})


def from_record(data: bytes, key: str) -> dict[str, Any]:
    """The value that `to_record` wrote. DamageError, which names `key`, for any other bytes."""
    value: dict[str, Any] = {}
    try:
        value = json.loads(data)
        value.pop(CHECKSUM_KEY)
        whole = to_record(value) == data
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        whole = False
    if not whole:
        found = f"{key} is damaged: it does not match its own checksum"
        raise damage(found, "the exact bytes that were written")
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
    again = json.loads(canonical(asdict(found)))
    for field in sorted(again.keys() | value.keys()):
        if field not in again or canonical(again[field]) != canonical(value.get(field)):
            raise _unreadable(key, f"{field} is not what this version writes")
    return found


def read_record(cls: type[T], objects: Objects, key: str) -> T | None:
    """The dataclass `cls` that is stored at `key`; None where nothing is. Raises DamageError."""
    try:
        return parse(cls, from_record(objects.read(key), key), key)
    except FileNotFoundError:
        return None


def damage(found: str, expected: str, place: str = "CACHE") -> DamageError:
    """Something stored is not what was written."""
    return DamageError(found, expected, f"rs-cache verify {place} --full names all damage")


def _unreadable(key: str, detail: str) -> DamageError:
    return DamageError(
        f"{key} cannot be used although its checksum is right: {detail}",
        "a record that this version of regionspot-cache wrote",
        "restore it from a copy, or delete the cache and run rs-cache extract again",
    )


@lru_cache
def _adapter(cls: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(cls)
