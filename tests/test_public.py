"""What `import regionspot_cache` offers."""

from importlib.metadata import version

import pytest

import regionspot_cache


@pytest.mark.parametrize("name", regionspot_cache.__all__)
def test_every_public_name_is_there(name: str) -> None:
    found = getattr(regionspot_cache, name)
    assert found.__name__ == name
    assert found.__doc__


def test_what_is_listed_is_what_is_offered() -> None:
    assert dir(regionspot_cache) == sorted([*regionspot_cache.__all__, "__version__"])
    assert regionspot_cache.__version__ == version("regionspot-cache")


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'extrct'"):
        getattr(regionspot_cache, "extrct")  # noqa: B009
