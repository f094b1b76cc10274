"""Identities compared: what a cache, a run or a head was made from, and what it is asked to work with."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from regionspot_cache.errors import IdentityError

_SHOWN = 120  # characters of a value in a message
ARITHMETIC = "precision"
"""Key of a fingerprint under which a network says in which arithmetic it ran."""
DECODER = "decoder"
"""Key of a part's fingerprint under which it says what decoded the images."""


def for_reading(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What must agree to read features: a laptop in float32 reads what a GPU wrote in bfloat16, from whatever
    decoder. To add to a cache the whole fingerprint must agree."""
    return {key: value for key, value in fingerprint.items() if key not in (ARITHMETIC, DECODER)}


def require_same(
    found: Mapping[str, Any], wanted: Mapping[str, Any], *, what: str, wanted_by: str, remedy: str
) -> None:
    """Refuses two identities that differ; a key that is not there equals None.

    Args:
        found: nested values that JSON can hold; what it cannot is compared as text.
        wanted: of the same kind; its order decides which difference is named.
        what, wanted_by: whose they are, "the cache at DIR" and "this run".

    Raises:
        IdentityError: names the first key that differs, as dotted path, and both values.
    """
    theirs, ours = _flatten(found), _flatten(wanted)
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        if ours.get(key) != theirs.get(key):
            raise IdentityError(
                f"{what} was made with {key} = {_shown(_at(theirs, key))}",
                f"{key} = {_shown(_at(ours, key))}, that of {wanted_by}",
                remedy,
            )


def _at(flat: dict[str, Any], key: str) -> Any:
    """The value of a key; of one that holds others, these."""
    below = {name.removeprefix(f"{key}."): item for name, item in flat.items() if name.startswith(f"{key}.")}
    return below or flat.get(key)


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    # A round trip through JSON makes tuples and lists, as well as int and str keys, compare equal.
    return _dotted(json.loads(json.dumps(values, default=str)), "")


def _dotted(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Nested mappings and lists of mappings as dotted keys, in order."""
    flat: dict[str, Any] = {}
    for key, item in values.items():
        if isinstance(item, list) and any(isinstance(part, dict) for part in item):
            item = {str(i): part for i, part in enumerate(item)}
        flat |= _dotted(item, f"{prefix}{key}.") if isinstance(item, dict) else {prefix + key: item}
    return flat


def _shown(value: Any) -> str:
    text = repr(value)
    if len(text) <= _SHOWN:
        return text
    return f"{text[:_SHOWN]}... (SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:12]})"
