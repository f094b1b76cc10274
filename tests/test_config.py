"""Settings from files, options and overrides."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regionspot_cache.config import load_config, validate
from regionspot_cache.errors import InputError, MissingFileError, UsageError
from regionspot_cache.yaml_text import NotYamlError, parse_yaml, read_yaml


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
    stages: tuple[Inner, ...] = ()
    named: dict[str, Inner] = field(default_factory=dict)
    pair: tuple[Inner, int] | None = None
    either: Inner | int | list[Inner] = 0
    required: Literal["yes", "no"] = "no"


def write(folder: Path, text: str) -> Path:
    file = folder / "settings.yaml"
    file.write_text(text)
    return file


def test_defaults_then_file_then_overrides_then_options(tmp_path: Path) -> None:
    file = write(tmp_path, "name: file\ncount: 2\ninner: {rate: 3, kind: b}\nsizes: [4]\n")
    assert load_config(Outer) == Outer()
    assert load_config(Outer, file) == Outer(
        name="file", count=2, sizes=(4,), inner=Inner(rate=3.0, kind="b")
    )
    found = load_config(Outer, file, ["inner.rate=5", "count=7"], name="option", count=6, where=None)
    assert found == Outer(name="option", count=6, sizes=(4,), inner=Inner(rate=5.0, kind="b"))
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
        (["stages=[{rat: 1}]"], "Unknown key stages.0.rat in --set stages", "Did you mean stages.0.rate?"),
        (["named={a: {rat: 1}}"], "Unknown key named.a.rat", "Did you mean named.a.rate?"),
        (["pair=[{rat: 1}, 2]"], "Unknown key pair.0.rat", "Did you mean pair.0.rate?"),
        (["maybe={rat: 1}"], "Unknown key maybe.rat", "Did you mean maybe.rate?"),
        (["either={rat: 1}"], "rat", "either"),
        (["either=[{rat: 1}]"], "rat", "either"),
        (["inner.kind=bb"], "inner.kind = 'bb'", "Did you mean b? One of a, b."),
        (["stages=[{}]", "stages.1.rate=3"], "no place 1 in a list of 1", "0 for the first"),
        (["stages=[{}]", "stages.rate=3"], "no place rate in a list", "0 for the first"),
        (["count=" + "9" * 5000], "4300 digits", "--set"),
        (["count=" + "9" * 50], "64 bits", "--set"),
        (["count=0x" + "f" * 5000], "64 bits", "--set"),
        (["count=0x_"], "invalid literal", "--set"),
        (["name=" + "[" * 5000], "nested too deeply", "--set"),
        (['name="\\ud800"'], "surrogate", "--set"),
        (["sizes=[&a 1, *a]"], "aliases", "--set"),
        (["name=!!str 3"], "tags", "--set"),
        (["inner={rate: 1, rate: 2}"], "'rate' stands twice", "--set"),
        (["\udc80count=1"], "--set", "text"),
        (["inner={3: 2}"], "Unknown key inner.3", "Known keys: rate, kind"),
        (["count"], "'count' is not KEY=VALUE", "--set training.seed=3"),
        (["=3"], "'=3' is not KEY=VALUE", "--set"),
        (["name.first=3"], "name = {'first': 3}", "name"),
        (["name=a", "name.first=3"], "name is a value", "below a mapping"),
        (["count=["], "not YAML", "--set"),
        (["count=many"], "count = 'many'", "count"),
        (["count=2", "count=many"], "in --set count=many", "count"),
        (["inner.kind=c"], "inner.kind = 'c'", "One of a, b"),
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
        ("count: 1\nname: a\ncount: 2", "'count' stands twice"),
        ("a: &a [x]\nb: [*a, *a]", "aliases"),
        ("<<: {count: 3}", "Unknown key <<"),
        ("[" * 100_000, "nested too deeply"),
        ("stages: [{rate: 1, kint: a}]", "Unknown key stages.0.kint"),
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


def test_a_message_names_what_set_the_value(tmp_path: Path) -> None:
    file = write(tmp_path, "count: many\nstages: [{rate: 1}]")

    def said(overrides: list[str], **given: object) -> str:
        with pytest.raises(UsageError) as caught:
            load_config(Outer, file, overrides, spelled={"count": "--count few"}, **given)
        return caught.value.found

    assert f"count = 'many' in {file}: " in said([])
    assert "count = 'some' in --set count=some: " in said(["count=some"])
    assert "count = 'few' in --count few: " in said(["count=some"], count="few")
    assert "count = " in said(["name=b"])
    assert f"in {file}: " in said(["name=b"])
    assert "in --set stages.0.rate=high" in said(["count=1", "stages.0.rate=high"])
    assert "in --set inner.rat=high" in said(["count=1", "inner.rat=high", "inner.kind=a"])


def test_what_counts_where_nothing_is_said(tmp_path: Path) -> None:
    file = write(tmp_path, "count: 3")

    def defaults(said: Mapping[str, object]) -> dict[str, object]:
        return {"name": f"{sorted(said)}", "count": 9, "inner": {"rate": 7}}

    found = load_config(Outer, file, ["inner.kind=b"], defaults=defaults, sizes=[1])
    assert found == Outer(
        name="['count', 'inner', 'sizes']", count=3, sizes=(1,), inner=Inner(rate=7, kind="b")
    )


def test_overrides_reach_into_lists(tmp_path: Path) -> None:
    file = write(tmp_path, "stages: [{rate: 1}, {rate: 2}]\ninner:\n")
    found = load_config(Outer, file, ["stages.1.rate=5", "inner.rate=4"])
    assert found.stages == (Inner(rate=1.0), Inner(rate=5.0))
    assert found.inner == Inner(rate=4.0)


def test_a_date_is_a_text() -> None:
    assert load_config(Outer, overrides=["where=2030-01-31", "name=2030-02-31"]).where == Path("2030-01-31")


def test_what_a_dataclass_finds_itself_is_said_in_its_words() -> None:
    @dataclass(frozen=True)
    class Own:
        count: int = 1

        def __post_init__(self) -> None:
            raise InputError("mine", "yours")

    with pytest.raises(InputError, match="mine"):
        validate(Own, {"count": 2}, "here")


@given(st.text())
def test_any_text_is_yaml_of_plain_values_or_refused(text: str) -> None:
    with contextlib.suppress(NotYamlError):
        parse_yaml(text)
