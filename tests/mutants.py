"""Mutants of bytes, of JSON, YAML and CSV values, of safetensors headers, and of what lies at a path."""

import copy
import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

_TOKENS = (
    *(b"\x00", b"\xff", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r\n", b'"', b"\\", b"'", b"{"),
    *(b"]", b",", b"[" * 3000, b"9" * 5000, b"-1", b"1e999", b"NaN", b"null", b"\x1b[31m", b"\x7f" * 8),
    b"\x80\x00\x00\x00" * 2,
)
_LONGEST_SPAN = 4096


def mutate(data: bytes, suffix: str, rng: Random) -> bytes:
    """A mutant of a file: by its structure or by its bytes where the suffix has a structure."""
    change = _BY_SUFFIX.get(suffix)
    if change is None or rng.random() < 0.4:
        return mutate_bytes(data, rng)
    return change(data, rng)


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """One to three changes: flipped bits, cuts, insertions, repeated, swapped and zeroed spans."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(_CHANGES)(data, rng)
    return data


def _span(data: bytes, rng: Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 4, 8, 64, _LONGEST_SPAN)))


def _flip(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 4)) if data else 0):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _insert(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    new = rng.choice(_TOKENS) if rng.random() < 0.7 else rng.randbytes(rng.choice((1, 4, 16)))
    return data[:at] + new + data[at:]


def _duplicate(data: bytes, rng: Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:stop] + data[start:stop] * rng.choice((1, 1, 3)) + data[stop:]


def _swap(data: bytes, rng: Random) -> bytes:
    (a, b), (c, d) = sorted((_span(data, rng), _span(data, rng)))
    c = max(b, c)
    d = max(c, d)
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _delete(data: bytes, rng: Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + data[stop:]


def _zero(data: bytes, rng: Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + bytes(stop - start) + data[stop:]


_CHANGES = (_flip, _flip, _truncate, _insert, _insert, _duplicate, _swap, _delete, _zero)


class Raw(str):
    """Text that stands for itself in a JSON or YAML file."""


class Pairs(list):
    """An object: (key, value) in order, keys may repeat."""


_DEEP = Raw("[" * 3000 + "]" * 3000)
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        "",
        "text",
        "0",
        "1",
        " ",
        "\ud800",
        "a\0b",
        "\x1b[31mred",
        "../../x",
        "/etc/passwd",
    ),
    *(
        "x" * 5000,
        "%s{}{0}",
        "\u202e\u2028",
        [],
        Pairs(),
        Pairs([("a", 1)]),
        [None],
        [[]],
        [1, 2],
        [1, 2, 3, 4],
    ),
    *(-1, 0, 1, 2**31, 2**32 + 1, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308, 5e-324),
    *map(Raw, ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "-" + "9" * 5000, "1" * 400 + ".5")),
    _DEEP,
)
_YAML_VALUES = (
    *map(Raw, (".nan", ".inf", "-.inf", "2024-01-01", "2024-99-99", "1:30:00", "0x7f", "0o17", "~", "*b")),
    *map(Raw, ("&a [*a]", "!!python/object/apply:os.getcwd []", "!!binary x", "!!set {a, b}", "!!int x")),
    Raw("!!timestamp 1"),
)


def mutate_json(data: bytes, rng: Random) -> bytes:
    """One to three changes of nodes and keys; invalid numbers and lone surrogates are written as they are."""
    return _encoded(_changed(json.loads(data, object_pairs_hook=Pairs), _VALUES, rng))


def mutate_yaml(data: bytes, rng: Random) -> bytes:
    """As `mutate_json`, of a YAML file; JSON is the flow style of YAML."""
    value = json.loads(json.dumps(yaml.safe_load(data)), object_pairs_hook=Pairs)
    return _encoded(_changed(value, (*_VALUES, *_YAML_VALUES), rng))


def _changed(value: Any, values: tuple[Any, ...], rng: Random) -> Any:
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _change(value, values, rng)
    return value


def _change(value: Any, values: tuple[Any, ...], rng: Random) -> Any:
    containers = list(_containers(value))
    if not containers or rng.random() < 0.03:
        return rng.choice(values)
    chosen = rng.choice(containers)
    at = rng.randrange(len(chosen))
    other, new = copy.deepcopy(rng.choice(chosen)), copy.deepcopy(rng.choice(values))
    if isinstance(chosen, Pairs):
        key, old = chosen[at]
        edits: tuple[Callable[[], Any], ...] = (
            *[lambda: chosen.__setitem__(at, (key, new))] * 4,
            lambda: chosen.__setitem__(at, (key, _other_type(old))),
            lambda: chosen.__setitem__(at, (key, other[1])),
            lambda: chosen.pop(at),
            lambda: chosen.append((key, new)),
            lambda: chosen.__setitem__(
                at, (rng.choice((key + "x", key.upper(), "", "\ud800", "a\x1bb")), old)
            ),
        )
    else:
        old = chosen[at]
        edits = (
            *[lambda: chosen.__setitem__(at, new)] * 4,
            lambda: chosen.__setitem__(at, _other_type(old)),
            lambda: chosen.__setitem__(at, other),
            lambda: chosen.pop(at),
            lambda: chosen.append(old),
        )
    rng.choice(edits)()
    return value


def _containers(value: Any) -> Any:
    """Containers that hold something, the innermost ones too."""
    if isinstance(value, list) and value:
        yield value
        for item in value:
            yield from _containers(item[1] if isinstance(value, Pairs) else item)


def _other_type(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return int(bool(value))
    if isinstance(value, int | float):
        return Raw(f'"{value}"')
    if isinstance(value, Raw):
        return value
    if isinstance(value, str):
        return [value]
    return list(value) if isinstance(value, Pairs) else Pairs([("0", value)])


def _encoded(value: Any) -> bytes:
    return _text(value, 0).encode("utf-8")


def _text(value: Any, depth: int) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        members = (f"{json.dumps(key)}: {_text(item, depth + 1)}" for key, item in value)
        return "{" + ", ".join(members) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_text(item, depth + 1) for item in value) + "]"
    return json.dumps(value)


_CELLS = (
    *("", " ", "x", "-1", "0", "1", "2", "1e400", "nan", "inf", "-inf", "1e-320", "9" * 5000, "0x10", "1_0"),
    *("١", "2147483648", "9223372036854775808", "a\0b", "\x1b[31m", "../x", "/x", "x" * 5000, '"', '"a\nb"'),
    *("a,b", "\r"),
)


def mutate_csv(data: bytes, rng: Random) -> bytes:
    """A cell, a row or a column replaced, lost or repeated."""
    rows = list(csv.reader(io.StringIO(data.decode("utf-8"))))
    for _ in range(rng.choice((1, 1, 2, 3))):
        if not (rows and rows[0]):
            break
        row = rng.choice([row for row in rows if row] or [["x"]])
        column = rng.randrange(len(row))
        edit = rng.randrange(7)
        if edit < 4:
            row[column] = rng.choice(_CELLS)
        elif edit == 4:
            row.pop(column)
        elif edit == 5:
            rows.insert(rng.randrange(len(rows) + 1), rng.choice(rows)[:])
        else:
            rows.pop(rng.randrange(len(rows)))
    out = io.StringIO()
    # Half of the files are written without quoting, so that odd cells break their rows.
    if rng.random() < 0.5:
        csv.writer(out).writerows(rows)
    else:
        out.writelines(",".join(row) + "\n" for row in rows)
    return out.getvalue().encode("utf-8")


def mutate_safetensors(data: bytes, rng: Random) -> bytes:
    """A changed header with its right length, before the old tensors."""
    size = int.from_bytes(data[:8], "little")
    header = mutate_json(data[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


_BY_SUFFIX: dict[str, Callable[[bytes, Random], bytes]] = {
    ".json": mutate_json,
    ".yaml": mutate_yaml,
    ".yml": mutate_yaml,
    ".csv": mutate_csv,
    ".safetensors": mutate_safetensors,
}


def mutate_place(path: Path, rng: Random) -> str:
    """Puts something else than a file with content where a file was; what, for people."""
    path.unlink()
    kind = rng.choice(("missing", "empty", "folder", "loop of links", "broken link", "named pipe"))
    if kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop of links":
        path.symlink_to(path.name)
    elif kind == "broken link":
        path.symlink_to("nothing-here")
    elif kind == "named pipe":
        os.mkfifo(path)
    return kind
