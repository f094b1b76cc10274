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
