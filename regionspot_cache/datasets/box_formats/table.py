"""CSV files: a row a box, columns image, x0, y0, x1, y1 (pixels), perhaps name, and any others."""

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
FOUND = ("score", "margin", "names", "scores", "was")
EXPECTED = f"Columns {IMAGE}, {', '.join(CORNERS)} in pixels, and {NAME} where boxes have one."
NO_NUMBERS = "no numbers"


def read(path: Path, images: Path | None) -> BoxSet:
    """The boxes of a CSV file with a line of names. InputError: columns are missing, or it is no text."""
    collector, places = BoxCollector(path), dict[str, int]()
    columns: list[str] = []
    for columns, row in _rows(path):
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
    return collector.build("csv", file_sha256(path), roots, header={"columns": columns})


def _rows(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    """(columns, values) of every row."""
    with open_file(path, "A CSV file.") as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            columns = [column.strip() for column in next(reader, [])]
            if missing := [key for key in (IMAGE, *CORNERS) if key not in columns]:
                raise InputError(f"{path} has no column {', '.join(missing)}.", EXPECTED)
            for row in reader:
                if len(row) > len(columns):
                    found = f"{path}, line {reader.line_num}: {len(row)} values under {len(columns)} columns."
                    raise InputError(found, EXPECTED)
                if row:
                    yield columns, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}, line {reader.line_num + 1}: {error}.", EXPECTED) from None


def write(path: Path, answers: Answers) -> None:
    """A row a box; the rows and columns of a CSV source stay, those that say what was found are added."""
    same = answers.boxes.format == "csv" and not answers.proposed
    columns = (answers.boxes.header["columns"] if same else None) or [IMAGE, *CORNERS]
    columns = [*dict.fromkeys((*columns, NAME, *FOUND))]
    with replacing(path) as staging, staging.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(_merged(answers) if same else _made(answers))


def _merged(answers: Answers) -> Iterator[dict[str, Any]]:
    for entry, (columns, row) in enumerate(_rows(answers.boxes.path)):
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
