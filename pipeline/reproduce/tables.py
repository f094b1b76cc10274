"""Finished tables as Markdown, as a page and as JSON: the paper's numbers beside ours, and the trends."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.reproduce.outcome import RowOutcome, Spread, TableOutcome, Trend
from pipeline.reproduce.rows import PAPER, Row
from regionspot_cache.reporting.page import ReportSection, Table, Text

SHORT = ("row", "paper boxes", "paper AP (r/c/f)", "our boxes", "our AP", "novel", "top-1")
FULL = ("row", "paper data", *SHORT[1:6], "base", "r / c / f", "top-1", "top-1 novel")
HOURS = ("row", "paper data", "paper hours", "our hours")
OURS = {"our AP": "AP", "novel": "AP novel", "base": "AP base", "top-1": "top1", "top-1 novel": "top1 novel"}
PARTS = ("APr", "APc", "APf")
NONE = "–"


def markdown(outcome: TableOutcome, columns: Sequence[str] = FULL) -> str:
    """A table with its trends as Markdown, its columns aligned for reading as it stands."""
    rows = _cells(outcome, columns)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    texts = [outcome.table.note.strip(), *_reasons(outcome), *_trend_lines(outcome)]
    return "\n".join([f"### {heading(outcome)}", "", *lines, "", *(f"- {text}" for text in texts if text)])


def sections(outcome: TableOutcome) -> list[ReportSection]:
    """A table with its trends for the page."""
    columns, *rows = _cells(outcome, FULL)
    note = " ".join([outcome.table.note.strip(), *_reasons(outcome)]).strip()
    table = Table(caption=outcome.table.title, columns=columns, rows=[list(row) for row in rows], note=note)
    return [Text(title=heading(outcome)), table, Text(body="\n\n".join(_trend_lines(outcome)))]


def table_facts(outcome: TableOutcome) -> dict[str, Any]:
    """A table for programs."""
    rows = {
        name: {
            **{key: getattr(row.planned.row, key) for key in ("row", "paper", "source")},
            "reason": row.reason,
            "ours": [asdict(measured) for measured in row.measured],
        }
        for name, row in outcome.rows.items()
    }
    trends = [{**asdict(trend), **asdict(trend.claim)} for trend in outcome.trends]
    return {"table": outcome.table.name, "title": outcome.table.title, "rows": rows, "trends": trends}


def heading(outcome: TableOutcome) -> str:
    """`Table 4a: CLIP's feature map and class token`."""
    ours = " (ours, not the paper's)" if outcome.table.claimed_by != "the paper" else ""
    return f"Table {outcome.table.name.removeprefix('table')}: {outcome.table.title}{ours}"


def _cells(outcome: TableOutcome, columns: Sequence[str]) -> list[list[str]]:
    """The titles, then a line for every row and kind of boxes; the paper's numbers stand in a row's first."""
    if all(row.planned.row.measure == "hours" for row in outcome.rows.values()):
        columns = HOURS
    lines = [list(columns)]
    for row in outcome.rows.values():
        for i, measured in enumerate(row.measured or (None,)):
            cells = {"row": row.planned.row.row, "our boxes": measured.boxes if measured else ""}
            cells |= _ours(measured.figures if measured else {})
            cells |= _paper(row.planned.row) if i == 0 else {}
            lines.append([cells.get(name) or NONE for name in columns])
    return lines


def _paper(row: Row) -> dict[str, str]:
    numbers = row.paper
    star = " *" if row.source != PAPER else ""
    shown = f"{numbers['AP']:.1f}{_parts(numbers, ' ({}/{}/{})')}{star}" if "AP" in numbers else ""
    hours = f"{numbers['hours']:,.0f}{star}" if "hours" in numbers else ""
    return {
        "paper data": row.paper_data,
        "paper boxes": row.paper_boxes,
        "paper AP (r/c/f)": shown,
        "paper hours": hours,
    }


def _ours(figures: Mapping[str, Spread]) -> dict[str, str]:
    means = {name: spread.mean for name, spread in figures.items()}
    cells = {column: _spread(figures.get(name), 1) for column, name in OURS.items()}
    return {
        **cells,
        "our hours": _spread(figures.get("hours"), 3),
        "r / c / f": _parts(means, "{} / {} / {}"),
    }


def _parts(values: Mapping[Any, float], template: str) -> str:
    """AP of rare, common and frequent classes; nothing where none is known."""
    shown = [f"{values[name]:.1f}" if name in values else NONE for name in PARTS]
    return template.format(*shown) if set(shown) != {NONE} else ""


def _spread(spread: Spread | None, decimals: int) -> str:
    if spread is None:
        return ""
    sd = "" if spread.sd is None else f" ± {spread.sd:.{decimals}f}"
    return f"{spread.mean:.{decimals}f}{sd}"


def _reasons(outcome: TableOutcome) -> list[str]:
    """Why rows have no number of ours, rows of one reason together; and where other numbers come from."""
    by_reason: dict[str, dict[str, None]] = {}
    for row in outcome.rows.values():
        if row.reason:
            by_reason.setdefault(row.reason, {})[row.planned.row.row] = None
    texts = [f"{NONE} {', '.join(rows)}: {reason}." for reason, rows in by_reason.items()]
    sources = {r.planned.row.source for r in outcome.rows.values() if r.planned.row.paper} - {PAPER}
    return texts + [f"* {source}." for source in sorted(sources)]


def _trend_lines(outcome: TableOutcome) -> list[str]:
    return [_trend_text(trend, outcome.rows) for trend in outcome.trends]


def _trend_text(trend: Trend, rows: Mapping[str, RowOutcome]) -> str:
    hours = trend.claim.metric == "hours"
    better, worse = (_unique_label(name, rows) for name in (trend.claim.better, trend.claim.worse))
    text = f"{better} {'<' if hours else '>'} {worse} in {trend.claim.metric}: {trend.verdict}"
    if trend.difference is None:
        return f"{text}."
    spread = "one run each" if trend.spread is None else f"spread {trend.spread:.1f}"
    where = f" on {trend.boxes}" if trend.boxes else ""
    return f"{text}{where} ({trend.difference:+.1f}{'' if hours else ' points'}, {spread})."


def _unique_label(name: str, rows: Mapping[str, RowOutcome]) -> str:
    """The label of a row, with its boxes when another row is called the same."""
    row, labels = rows[name].planned.row, [other.planned.row.row for other in rows.values()]
    return f"{row.row} ({row.paper_boxes or row.proposals})" if labels.count(row.row) > 1 else row.row
