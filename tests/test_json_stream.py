"""The streaming JSON reader: the same values as `json`, errors by byte, memory that does not grow."""

import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot_cache import json_stream
from regionspot_cache.errors import InputError, MissingFileError
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


documents = st.dictionaries(st.text(max_size=5), VALUES | st.lists(VALUES, max_size=6), max_size=5)


def entries(content: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key, entry) for key, value in content.items() if isinstance(value, list) for entry in value]


@settings(max_examples=200)
@given(documents, st.booleans(), st.sampled_from([None, 1]), st.integers(1, 40))
def test_sections_equal_json_whatever_the_window(
    tmp_path_factory: pytest.TempPathFactory,
    content: dict[str, Any],
    ascii_only: bool,
    indent: int | None,
    chunk: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / "content.json"
    path.write_text(
        json.dumps(content, ensure_ascii=ascii_only, indent=indent), encoding="utf-8", errors="replace"
    )
    content = json.loads(path.read_text(encoding="utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        file = JsonFile(path)
        assert list(file.sections()) == entries(content)
    assert file.keys == list(content)
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@settings(max_examples=200)
@given(st.data())
def test_sections_of_a_file_cut_anywhere_is_an_error_that_names_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = {"images": [{"id": 12, "name": "ä\n"}, {"id": -1.5e30}], "x": {"ö": [True, None]}}
    whole = json.dumps(content, ensure_ascii=False).encode()
    cut = data.draw(st.integers(0, len(whole) - 1))
    path = tmp_path_factory.getbasetemp() / "cut.json"
    path.write_bytes(whole[:cut])
    with pytest.raises(
        InputError, match=r"cut\.json (is empty|is cut off: it ends at byte \d+|is not valid JSON)"
    ):
        list(JsonFile(path).sections())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"[1]", "holds a list"),
        (b'{"a": [1 2]}', "'2' at byte 9"),
        ('{"é": [1 2]}'.encode(), "'2' at byte 10"),
        (b'{"a": [{"b": 1,}' + b" " * 200 + b"]}", "at byte 1"),
        (b'{"a": [1]} x', "'x' at byte 11"),
        (b'{"a": 1, 3: 4}', "'3' at byte 9"),
        (b"\x1f\x8b\x08\x00zipped", "byte 1 is 0x8b"),
        (b'{"a": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}", "not valid JSON"),
        (b'{"a": [1' + b"0" * 5000 + b"]}", "not valid JSON"),
        (b'{"a": [tru]}', "at byte 7"),
    ],
)
def test_broken_files_are_named_with_the_byte(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.json") as caught:
        list(JsonFile(path).sections())
    assert message in caught.value.found
    assert caught.value.remedy


def test_a_byte_order_mark_and_not_a_number_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": [NaN, Infinity]}')
    assert [str(value) for _, value in JsonFile(path).sections()] == ["nan", "inf"]


def test_a_syntax_error_is_found_without_reading_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", 1000)
    path = tmp_path / "a.json"
    path.write_text('{"a": [{"b" 1' + " " * 100_000 + "}]}")
    tracemalloc.start()
    with pytest.raises(InputError, match="byte 12"):
        list(JsonFile(path).sections())
    assert tracemalloc.get_traced_memory()[1] < 50_000
    tracemalloc.stop()


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"none\.json"):
        list(JsonFile(tmp_path / "none.json").sections())


@pytest.mark.parametrize(
    "odd",
    [
        '"}, {"',
        "[{}, {}]",
        '{"x": [{"y": 1}, {"y": 2}]}',
        "NaN",
        '"\\ud800"',
        "1" + "0" * 30,
        '"}, {\\"", "b": 2',
    ],
)
@pytest.mark.parametrize("chunk", [16, 90, 1 << 18])
def test_elements_decoded_together_equal_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str, chunk: int
) -> None:
    """What looks like the end of an element, or what the fast decoder refuses, changes nothing."""
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    entries = [f'{{"a": {odd if number == 7 else number}}}' for number in range(20)]
    path = tmp_path / "a.json"
    path.write_text(f'{{"first": [{", ".join(entries)}], "second": [{{"a": 1}}, {{"a": {odd}}}]}}')
    content = json.loads(path.read_text())
    found = [(key, repr(entry)) for key, entry in JsonFile(path).sections()]
    assert found == [(key, repr(entry)) for key in content for entry in content[key]]


def test_elements_come_together(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"a": number} for number in range(100)]))
    assert [len(values) for _, values in JsonFile(path).pieces()] == [99, 1]
