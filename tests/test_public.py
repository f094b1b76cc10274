"""What `import regionspot_cache` offers."""

import pytest

import regionspot_cache


@pytest.mark.parametrize("name", regionspot_cache.__all__)
def test_every_public_name_is_there(name: str) -> None:
    found = getattr(regionspot_cache, name)
    assert found.__name__ == name
    assert found.__doc__


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'extrct'"):
        getattr(regionspot_cache, "extrct")  # noqa: B009
