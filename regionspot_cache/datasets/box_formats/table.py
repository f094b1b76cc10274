"""CSV files: a row a box, columns image, x0, y0, x1, y1 (pixels), perhaps name, and any others.

Between them are commas, semicolons or tabs, as the line of names has them.
"""

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regionspot_cache.datasets.box_formats.box_set import UNNAMED, Answers, BoxCollector, BoxSet, LabelledBox
from regionspot_cache.errors import InputError
from regionspot_cache.files import file_sha256, open_file, replacing

IMAGE, NAME = "image", "name"
CORNERS = ("x0", "y0", "x1", "y1")
DELIMITERS = ",;\t"
FOUND = ("score", "margin", "names", "scores", "was")
EXPECTED = (
    f"UTF-8, with columns {IMAGE}, {', '.join(CORNERS)} in pixels, and {NAME} where boxes have one; commas, "
    "semicolons or tabs between them."
)
NO_NUMBERS = "no numbers"


def read(path: Path, images: Path | None) -> BoxSet:
    """The boxes of a CSV file with a line of names. InputError: columns are missing, or it is no text."""
    collector, places = BoxCollector(path), dict[str, int]()
    columns, delimiter = _header(path)
    for row in _rows(path):
        values = dict(zip(columns, row, strict=False))
        name = values.get(IMAGE, "")
        if name not in places:
            places[name] = collector.image(name, None)
        try:
            corners = [float(values[key]) for key in CORNERS]
        except (KeyError, ValueError):
            collector.skip(NO_NUMBERS)
            continue
        collector.box(places[name], corners, values.get(NAME, UNNAMED).strip())
    roots = (images,) if images else (path.parent,)
    return collector.build("csv", file_sha256(path), roots, header=(columns, delimiter))


def _header(path: Path) -> tuple[list[str], str]:
    """The columns, and what stands between them: a comma, a semicolon or a tab."""
    with open_file(path, EXPECTED) as raw:
        line = raw.readline().decode("utf-8-sig", "replace")
    delimiter = max(DELIMITERS, key=line.count)
    columns = [column.strip() for column in next(_lines(path, delimiter), [])]
    missing = [key for key in (IMAGE, *CORNERS) if key not in columns]
    twice = [column for column in columns if columns.count(column) > 1]
    if missing or twice:
        found = f"no column {', '.join(missing)}" if missing else f"two columns {twice[0]!r}"
        raise InputError(f"{path} has {found}; it has: {', '.join(columns)[:200] or 'nothing'}.", EXPECTED)
    return columns, delimiter


def _rows(path: Path) -> Iterator[list[str]]:
    """The values of every row."""
    columns, delimiter = _header(path)
    lines = _lines(path, delimiter)
    next(lines)
    for number, row in enumerate(filter(None, lines), 1):
        if len(row) > len(columns):
            found = f"{path}, row {number}: {len(row)} values under {len(columns)} columns."
            raise InputError(found, EXPECTED)
        yield row


def _lines(path: Path, delimiter: str) -> Iterator[list[str]]:
    with open_file(path, EXPECTED) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            yield from reader
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}, line {reader.line_num + 1}: {error}.", EXPECTED) from None


def write(path: Path, answers: Answers) -> None:
    """A row a box; the rows and columns of a CSV source stay, those that say what was found are added."""
    same = answers.boxes.format == "csv" and not answers.proposed
    columns, delimiter = answers.boxes.header if same else ([IMAGE, *CORNERS], DELIMITERS[0])
    every = [*dict.fromkeys((*columns, NAME, *FOUND))]
    with replacing(path) as staging, staging.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, every, restval="", lineterminator="\n", delimiter=delimiter)
        writer.writeheader()
        writer.writerows(_merged(answers, columns) if same else _made(answers))


def _merged(answers: Answers, columns: list[str]) -> Iterator[dict[str, Any]]:
    for entry, row in enumerate(_rows(answers.boxes.path)):
        found = answers.of_entry(entry)
        yield dict(zip(columns, row, strict=False)) | (_said(found) if found else {})


def _made(answers: Answers) -> Iterator[dict[str, Any]]:
    for i, name in enumerate(answers.boxes.dataset.file_names):
        for found in answers.of_image(i):
            corners = dict(zip(CORNERS, map(_short, found.box), strict=True))
            yield {IMAGE: name, **corners, **_said(found)}


def _short(value: float) -> str:
    return repr(int(value)) if math.isfinite(value) and value == int(value) else repr(value)


def _said(found: LabelledBox) -> dict[str, Any]:
    lists = {key: json.dumps(v) if isinstance(v, list) else v for key, v in found.fields().items()}
    return {NAME: found.name} | lists
