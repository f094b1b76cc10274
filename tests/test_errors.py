"""The family of errors."""

import pickle

import pytest

from regionspot_cache import errors

CODES = {
    errors.RegionSpotError: 1,
    errors.InputError: 1,
    errors.MissingFileError: 1,
    errors.UsageError: 2,
    errors.IncompleteError: 3,
    errors.IdentityError: 4,
    errors.DamageError: 4,
}


@pytest.mark.parametrize("kind", CODES)
def test_three_parts_a_code_and_a_way_through_pickle(kind: type[errors.RegionSpotError]) -> None:
    error = kind("found", "expected", "remedy")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    for one in (error, again):
        assert type(one) is kind
        assert (one.found, one.expected, one.remedy) == ("found", "expected", "remedy")
        assert one.exit_code == CODES[kind]
        assert str(one) == "found\nexpected\nremedy"
    assert str(kind("found")) == "found"


def test_they_are_what_callers_catch() -> None:
    assert issubclass(errors.MissingFileError, FileNotFoundError)
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.UsageError, errors.InputError)
    assert all(issubclass(kind, errors.RegionSpotError) for kind in CODES)


def test_nothing_in_a_message_can_reach_the_terminal_as_a_command() -> None:
    error = errors.InputError("name \x1b[31m\r\0\ud800\u202e\x9b", "a\nb", "\u3000\u00e4\u6c34")
    assert error.found == r"name \x1b[31m\r\x00\ud800\u202e\x9b"
    assert (error.expected, error.remedy) == ("a\nb", "\u3000\u00e4\u6c34")
    str(error).encode("utf-8")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert str(again) == str(error)


def test_a_part_of_a_message_has_an_end() -> None:
    found = errors.InputError("begin " + "9" * 10**6 + " end").found
    assert len(found) <= 2000
    assert len(errors.InputError("\0" * 1000).found) <= 2000
    assert found.startswith("begin 9")
    assert found.endswith("9 end")
