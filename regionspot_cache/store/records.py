"""Small JSON objects that carry their own checksum: cache.json, half specs, markers, the manifest.

The bytes on disk are canonical (sorted keys, fixed layout), and reading demands exactly those bytes, so a
single flipped byte anywhere, white space included, is noticed.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from regionspot_cache.errors import DamageError

CHECKSUM_KEY = "record_sha256"


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
