"""Self-checked JSON records."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regionspot_cache.errors import DamageError
from regionspot_cache.store.records import from_record, to_record

VALUE = {"name": "caché", "sizes": [1, 2.5], "nested": {"none": None}}


def test_round_trip() -> None:
    assert from_record(to_record(VALUE), "x.json") == VALUE


@given(st.integers(0, len(to_record(VALUE)) - 1), st.integers(1, 255))
def test_any_changed_byte_is_found(position: int, change: int) -> None:
    data = bytearray(to_record(VALUE))
    data[position] ^= change
    with pytest.raises(DamageError, match=r"x\.json"):
        from_record(bytes(data), "x.json")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"null", to_record(VALUE) + b"\n", to_record(VALUE)[:-9]]
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(DamageError):
        from_record(data, "x.json")
