"""A report as one HTML file that needs nothing else: no network, no script, no other file.

It follows the reader's light or dark setting, fits phones and wide screens, and is readable without seeing:
tables name their rows and columns, pictures and charts have texts. Everything that comes from outside is
escaped, and a content security policy forbids the page to load or run anything.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from regionspot_cache.errors import InputError
from regionspot_cache.files import replacing
from regionspot_cache.reporting.curve import Curve
from regionspot_cache.reporting.drawing import Panel, sheet
from regionspot_cache.reporting.lettering import visible

Cell = str | int | float | None

MISSING = "–"
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Text:
    """A heading, a text, or both. Blank lines part paragraphs."""

    kind: ClassVar = "text"
    title: str = ""
    body: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under named columns; the first cell names the row, None and NaN print as a dash."""

    kind: ClassVar = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        for i, row in enumerate(self.rows):
            if len(row) != (expected := len(self.columns)):
                raise InputError(f"row {i} of table {self.caption!r} has {len(row)} cells", f"{expected}")

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether it has numbers alone."""
        known = [[row[c] for row in self.rows if row[c] is not None] for c in range(len(self.columns))]
        return [bool(cells) and not any(isinstance(cell, str) for cell in cells) for cells in known]


@dataclass(frozen=True)
class Picture:
    """Panels that belong together, beside each other where there is room."""

    kind: ClassVar = "picture"
    caption: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class KeyValues:
    """Settings and other facts, one on a line."""

    kind: ClassVar = "facts"
    title: str
    items: Mapping[str, Cell]


ReportSection = Text | Table | Curve | Picture | KeyValues


def write_report(path: Path, title: str, subtitle: str, sections: Sequence[ReportSection]) -> None:
    """Write a report to `path`, replacing what is there only when the new one is complete."""
    page = render_report(title, subtitle, sections)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as staging:
        staging.write_text(page, encoding="utf-8")


def render_report(title: str, subtitle: str, sections: Sequence[ReportSection]) -> str:
    """The HTML text that `write_report` writes, sections in their order."""
    return _template().render(title=title, subtitle=subtitle, sections=sections)


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("regionspot_cache.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else visible(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": format_cell, "data_uri": data_uri}
    return environment.get_template("report.html")


def format_cell(cell: Cell, decimals: int = 1) -> str:
    """Text of a table cell: floats with fixed decimals, thousands separated, a dash for no value."""
    if isinstance(cell, str):
        return cell or MISSING
    if cell is None or math.isnan(cell):
        return MISSING
    if isinstance(cell, (bool, np.bool_)):
        return "yes" if cell else "no"
    return f"{cell:,}" if isinstance(cell, (int, np.integer)) else f"{cell:,.{decimals}f}"


def data_uri(panel: Panel) -> str:
    """The picture of a panel without its caption."""
    data = io.BytesIO()
    sheet([panel], captions=False).save(data, "jpeg", quality=JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
