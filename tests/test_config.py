"""Settings from files, options and overrides."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regionspot_cache.config import load_config, read_yaml
from regionspot_cache.errors import MissingFileError, UsageError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = "x"
    count: int = 1
    sizes: tuple[int, ...] = (1, 2)
    where: Path | None = None
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None


def write(folder: Path, text: str) -> Path:
    file = folder / "settings.yaml"
    file.write_text(text)
    return file


def test_defaults_then_file_then_options_then_overrides(tmp_path: Path) -> None:
    file = write(tmp_path, "name: file\ncount: 2\ninner: {rate: 3, kind: b}\nsizes: [4]\n")
    assert load_config(Outer) == Outer()
    assert load_config(Outer, file) == Outer(
        name="file", count=2, sizes=(4,), inner=Inner(rate=3.0, kind="b")
    )
    found = load_config(Outer, file, ["inner.rate=5", "count=7"], name="option", count=6, where=None)
    assert found == Outer(name="option", count=7, sizes=(4,), inner=Inner(rate=5.0, kind="b"))
    assert load_config(Outer, write(tmp_path, "")) == Outer()


def test_overrides_reach_what_the_file_left_out() -> None:
    assert load_config(Outer, overrides=["maybe.rate=2"]).maybe == Inner(rate=2.0)
    assert load_config(Outer, overrides=["where=a/b", "sizes=[]"]) == Outer(where=Path("a/b"), sizes=())


@pytest.mark.parametrize(
    ("overrides", "found", "expected"),
    [
        (["coutn=1"], "Unknown key coutn", "Did you mean count?"),
        (["inner.rat=1"], "Unknown key inner.rat", "Did you mean inner.rate?"),
        (["maybe.kint=a"], "Unknown key maybe.kint", "Did you mean maybe.kind?"),
        (["zzz=1"], "Unknown key zzz", "Known keys: name, count"),
        (["count"], "'count' is not KEY=VALUE", "--set training.seed=3"),
        (["=3"], "'=3' is not KEY=VALUE", "--set"),
        (["name.first=3"], "name = {'first': 3}", "name"),
        (["name=a", "name.first=3"], "name is a value", "below a mapping"),
        (["count=["], "not YAML", "--set"),
        (["count=many"], "count = 'many'", "count"),
        (["inner.kind=c"], "inner.kind = 'c'", "inner.kind"),
        (["sizes=[a]"], "sizes.0 = 'a'", "sizes.0"),
        (["inner=3"], "inner = 3", "inner"),
    ],
)
def test_nonsense_names_the_key(overrides: list[str], found: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(Outer, overrides=overrides)
    assert found in caught.value.found
    assert expected in caught.value.expected


def test_nonsense_in_a_file_names_the_file(tmp_path: Path) -> None:
    for text, found in (
        ("coutn: 1", "Unknown key coutn"),
        ("- 1", "holds a list"),
        ("a: [", "is not YAML"),
        ("count: many", "count = 'many'"),
        ("inner: {kind: !!python/object/apply:os.getcwd []}", "is not YAML"),
    ):
        file = write(tmp_path, text)
        with pytest.raises(UsageError) as caught:
            load_config(Outer, file)
        assert found in caught.value.found
        assert str(file) in caught.value.found
    with pytest.raises(MissingFileError):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "settings.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError):
        read_yaml(tmp_path / "settings.yaml")


@given(st.text(max_size=20))
def test_any_override_is_taken_or_refused_with_words(text: str) -> None:
    try:
        load_config(Outer, overrides=[text])
    except UsageError as error:
        said = (error.found, error.expected)
    else:
        said = ("taken", "taken")
    assert all(said)
