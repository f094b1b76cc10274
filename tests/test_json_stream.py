import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot_cache import json_stream
from regionspot_cache.errors import InputError
from regionspot_cache.json_stream import JsonFile, write_json_array

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("json")


@settings(deadline=None)
@given(st.lists(VALUES) | st.dictionaries(st.text(), VALUES), st.integers(1, 40), st.sampled_from([None, 2]))
def test_equals_json(folder: Path, content: list | dict, chunk: int, indent: int | None) -> None:
    """Whatever the window, which cuts numbers and words anywhere."""
    path = folder / "file.json"
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        entries = list(JsonFile(path).entries())
    expected = list(content.items()) if isinstance(content, dict) else [(None, value) for value in content]
    assert entries == expected


@given(st.lists(st.integers() | st.lists(st.integers())).map(lambda values: json.dumps(values)[:-1]))
def test_a_file_cut_off_is_an_error(folder: Path, text: str) -> None:
    (folder / "cut.json").write_text(text)
    with pytest.raises(InputError, match=r"cut\.json is cut off"):
        list(JsonFile(folder / "cut.json").entries())


@pytest.mark.parametrize("text", ["7", "[1 2]", "[1,]", '{"a" 1}', "{1: 2}", "[tru]", "{,}", "[1] 2", ""])
def test_other_text_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(InputError):
        list(JsonFile(tmp_path / "bad.json").entries())


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_bytes(b'["\xff"]')
    with pytest.raises(InputError):
        list(JsonFile(tmp_path / "bad.json").entries())


@given(st.lists(st.lists(VALUES, max_size=3), max_size=4))
def test_write(folder: Path, groups: list[list]) -> None:
    write_json_array(folder / "out.json", iter(groups))
    assert json.loads((folder / "out.json").read_text()) == [value for group in groups for value in group]
