from typing import Any

import pytest

from regionspot_cache.errors import IdentityError
from regionspot_cache.identity import require_same

WANTED = {"clip": {"size": (2, 3), "layers": [{"name": "a"}, {"name": "b"}]}, "seed": 1, "ignore": None}


def compare(found: dict[str, Any]) -> None:
    require_same(found, WANTED, what="the cache at c", wanted_by="this run", remedy="rs-cache extract")


def test_tuples_order_and_keys_without_a_value_make_no_difference() -> None:
    compare(WANTED)
    compare({"seed": 1, "clip": {"layers": [{"name": "a"}, {"name": "b"}], "size": [2, 3]}})


@pytest.mark.parametrize(
    ("found", "theirs", "ours"),
    [
        (WANTED | {"seed": 2}, "seed = 2", "seed = 1"),
        ({"seed": 1}, "clip.size = None", "clip.size = [2, 3]"),
        (
            WANTED | {"clip": {"size": [2, 3], "layers": [{"name": "a"}, {"name": "c"}]}},
            "clip.layers.1.name = 'c'",
            "clip.layers.1.name = 'b'",
        ),
        (WANTED | {"more": 5}, "more = 5", "more = None"),
        (WANTED | {"seed": {"a": {"b": 1}, "c": 2}}, "seed = {'a.b': 1, 'c': 2}", "seed = 1"),
        (WANTED | {"seed": "x" * 500}, f"seed = '{'x' * 119}... (SHA-256 ", "seed = 1"),
    ],
)
def test_the_first_difference_is_named(found: dict[str, Any], theirs: str, ours: str) -> None:
    with pytest.raises(IdentityError) as caught:
        compare(found)
    assert caught.value.found.startswith(f"the cache at c was made with {theirs}")
    assert caught.value.expected == f"{ours}, that of this run"
    assert caught.value.remedy == "rs-cache extract"
