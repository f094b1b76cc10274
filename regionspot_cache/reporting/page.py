"""A report as one HTML file that needs nothing else: no network, no script, no other file.

It follows the reader's light or dark setting, fits phones and wide screens, and is readable without seeing:
tables name their rows and columns, pictures and charts have texts. Everything that comes from outside is
escaped, and a content security policy forbids the page to load or run anything.
"""

import base64
import io
import itertools
import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from regionspot_cache.errors import InputError
from regionspot_cache.files import replacing
from regionspot_cache.reporting.curve import NUM_STYLES, curve_svg, smoothing_window
from regionspot_cache.reporting.style import REPORT_CSS

Cell = str | int | float | None

MAX_FIGURE_SIDE = 2400  # pixels; larger pictures are reduced
WIDE_FIGURE = 1040  # pixels; wider pictures get a row of their own
SMALL_FIGURE = 560  # pixels; wider pictures scroll on phones, so that their letters stay legible
JPEG_QUALITY = 88
FEW_COLOURS = 256
MISSING = "–"
LARGE_CHART, SMALL_CHART = (900, 360), (420, 300)  # of screens and phones, CSS pixels
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, kw_only=True)
class Text:
    """A heading, a text, or both. Blank lines part paragraphs."""

    title: str = ""
    body: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under named columns; the first cell names the row.

    Attributes:
        rows: cells are text or numbers; None and NaN print as a dash.
        note: under the table: protocol, source.
        decimals: of floats; integers get thousands separators.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    decimals: int = 1


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line chart of n points, raw and smoothed.

    Attributes:
        xs: n values of the horizontal axis, rising.
        series: name -> n values; None and NaN leave gaps.
        x_label, y_label: with units.
    """

    title: str
    xs: Sequence[float]
    series: Mapping[str, Sequence[float | None]]
    x_label: str
    y_label: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture; `alt` says what it shows to readers who cannot see it."""

    image: Image.Image
    caption: str
    alt: str


@dataclass(frozen=True, kw_only=True)
class KeyValues:
    """Settings and other facts, one on a line."""

    title: str
    items: Mapping[str, Cell]


ReportSection = Text | Table | Curve | Figure | KeyValues


def write_report(path: Path, title: str, subtitle: str, sections: Sequence[ReportSection]) -> None:
    """Write a report to `path`, replacing what is there only when the new one is complete.

    Sections appear in their order; neighbouring figures share a row where they fit.

    Raises:
        InputError: a row, series or text does not fit its section.
        OSError: the file cannot be written.
    """
    page = render_report(title, subtitle, sections).encode("utf-8")
    with replacing(path) as staging, staging.open("wb") as file:
        file.write(page)
        file.flush()
        os.fsync(file.fileno())


def render_report(title: str, subtitle: str, sections: Sequence[ReportSection]) -> str:
    """The HTML text that `write_report` writes."""
    groups = itertools.groupby(sections, key=lambda section: isinstance(section, Figure))
    body = "\n".join(_render_group(list(group), figures) for figures, group in groups)
    lead = f'<p class="subtitle">{_safe(subtitle)}</p>' if subtitle else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_safe(title)}</title>\n<style>{REPORT_CSS}</style>\n</head>\n<body>\n"
        f"<header><h1>{_safe(title)}</h1>{lead}</header>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _render_group(group: Sequence[ReportSection], figures: bool) -> str:
    inner = "\n".join(_render_section(section) for section in group)
    return f'<div class="figures">\n{inner}\n</div>' if figures else inner


def _render_section(section: ReportSection) -> str:
    match section:
        case Text():
            return _render_text(section)
        case Table():
            return _render_table(section)
        case Curve():
            return _render_curve(section)
        case Figure():
            return _render_figure(section)
        case KeyValues():
            return _render_key_values(section)


def _render_text(text: Text) -> str:
    heading = f"<h2>{_safe(text.title)}</h2>" if text.title else ""
    paragraphs = [part.strip() for part in text.body.split("\n\n")]
    return heading + "".join(f"<p>{_safe(part)}</p>" for part in paragraphs if part)


def _render_table(table: Table) -> str:
    for i, row in enumerate(table.rows):
        if len(row) != len(table.columns):
            raise InputError(
                f"row {i} of table {table.caption!r} has {len(row)} cells", f"{len(table.columns)}"
            )
    numeric = [_is_numeric([row[c] for row in table.rows]) for c in range(len(table.columns))]
    classes = [' class="number"' if is_number else "" for is_number in numeric]
    head = "".join(
        f'<th scope="col"{kind}>{_safe(name)}</th>' for name, kind in zip(table.columns, classes, strict=True)
    )
    body = "\n".join(_render_row(row, classes, table.decimals) for row in table.rows)
    note = f'<p class="note">{_safe(table.note)}</p>' if table.note else ""
    rows = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    inner = f"<table><caption>{_safe(table.caption)}</caption>\n{rows}</table>"
    return f'<div class="block">{_scrolling(inner, table.caption)}{note}</div>'


def _render_row(row: Sequence[Cell], classes: Sequence[str], decimals: int) -> str:
    texts = [_safe(format_cell(cell, decimals)) for cell in row]
    cells = [f"<td{kind}>{text}</td>" for text, kind in zip(texts[1:], classes[1:], strict=True)]
    return f'<tr><th scope="row"{classes[0]}>{texts[0]}</th>{"".join(cells)}</tr>'


def _is_numeric(cells: Sequence[Cell]) -> bool:
    known = [cell for cell in cells if cell is not None]
    return bool(known) and not any(isinstance(cell, str) for cell in known)


def format_cell(cell: Cell, decimals: int) -> str:
    """Text of a table cell: floats with fixed decimals, thousands separated, a dash for no value."""
    if isinstance(cell, str):
        return cell or MISSING
    if cell is None or math.isnan(cell):
        return MISSING
    if isinstance(cell, (bool, np.bool_)):
        return "yes" if cell else "no"
    return f"{cell:,}" if isinstance(cell, (int, np.integer)) else f"{cell:,.{decimals}f}"


def _render_curve(curve: Curve) -> str:
    for name, ys in curve.series.items():
        if len(ys) != len(curve.xs):
            raise InputError(f"series {name!r} of {curve.title!r} has {len(ys)} values", f"{len(curve.xs)}")
    charts = [
        f'<div class="{kind}">{_chart(curve, *size)}</div>'
        for kind, size in (("large-screen", LARGE_CHART), ("small-screen", SMALL_CHART))
    ]
    return (
        f'<div class="block"><div class="chart-title">{_safe(curve.title)}</div>{_legend(curve)}'
        f"{''.join(charts)}{_smoothing_note(curve)}</div>"
    )


def _chart(curve: Curve, width: int, height: int) -> str:
    series = {_clean(name): ys for name, ys in curve.series.items()}
    texts = _clean(curve.title), _clean(curve.x_label), _clean(curve.y_label)
    return curve_svg(texts[0], curve.xs, series, texts[1], texts[2], width=width, height=height)


def _legend(curve: Curve) -> str:
    entries = [
        '<li><svg viewBox="0 0 42 10" aria-hidden="true">'
        f'<path class="line s{i % NUM_STYLES}" d="M2 5H40"/></svg>{_safe(name)}</li>'
        for i, name in enumerate(curve.series)
    ]
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _smoothing_note(curve: Curve) -> str:
    window = smoothing_window(len(curve.xs))
    return f'<p class="note">Thin: as measured. Thick: mean over {window} points.</p>' if window > 1 else ""


def _render_figure(figure: Figure) -> str:
    if not figure.alt.strip():
        raise InputError(f"figure {figure.caption!r} has no alt text", "what it shows, in words")
    image = figure.image.convert("RGB")
    image.thumbnail((MAX_FIGURE_SIDE, MAX_FIGURE_SIDE), Image.Resampling.LANCZOS)
    size = f'width="{image.width}" height="{image.height}"'
    tag = f'<img src="{data_uri(image)}" alt="{_safe(figure.alt)}" {size}>'
    caption = f"<figcaption>{_safe(figure.caption)}</figcaption>"
    if image.width <= SMALL_FIGURE:
        return f"<figure>{caption}{tag}</figure>"
    kind = "wide" if image.width > WIDE_FIGURE else "medium"
    return f'<figure class="{kind}">{caption}{_scrolling(tag, figure.caption)}</figure>'


def _scrolling(inner: str, label: str) -> str:
    """A part that scrolls sideways on narrow screens, also from the keyboard."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{_safe(label)}">{inner}</div>'


def data_uri(image: Image.Image) -> str:
    """An RGB picture as a data URI: PNG where it has few colours (drawings), else JPEG (photographs)."""
    data = io.BytesIO()
    kind = "png" if image.getcolors(FEW_COLOURS) else "jpeg"
    image.save(data, kind, **({} if kind == "png" else {"quality": JPEG_QUALITY, "subsampling": 0}))
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode('ascii')}"


def _render_key_values(section: KeyValues) -> str:
    items = "".join(
        f"<dt>{_safe(key)}</dt><dd>{_safe(format_cell(value, 4))}</dd>"
        for key, value in section.items.items()
    )
    heading = f"<h2>{_safe(section.title)}</h2>" if section.title else ""
    return f"{heading}<dl>{items}</dl>"


def _clean(text: str) -> str:
    """Text without characters that HTML forbids: controls, and halves of surrogate pairs from file names."""
    kept = "".join("\N{REPLACEMENT CHARACTER}" if _is_control(c) else c for c in text)
    return kept.encode("utf-8", "replace").decode("utf-8")


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc" and character not in "\n\t"


def _safe(text: str) -> str:
    return escape(_clean(text), quote=True)
