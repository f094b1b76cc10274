"""Finished tables as Markdown, as a page and as JSON: the paper's numbers beside ours, and the trends."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipeline.reproduce.outcome import Measured, RowOutcome, Spread, TableOutcome, Trend
from pipeline.reproduce.rows import PAPER
from regionspot_cache.reporting.page import ReportSection, Table, Text

FULL = (
    "row",
    "paper data",
    "paper boxes",
    "paper",
    "boxes",
    "AP",
    "novel",
    "base",
    "r / c / f",
    "top-1",
    "top-1 novel",
)
SHORT = ("row", "paper boxes", "paper", "boxes", "AP", "novel", "top-1")
HOURS = ("row", "paper data", "paper", "hours")
OURS = {"AP": "AP", "novel": "AP novel", "base": "AP base", "top-1": "top1", "top-1 novel": "top1 novel"}
HEADS = {"paper": "paper AP (r/c/f)", "boxes": "our boxes", "AP": "our AP", "hours": "our hours"}
NONE = "–"


def markdown(outcome: TableOutcome, columns: Sequence[str] = FULL) -> str:
    """A table with its trends as Markdown, its columns aligned for reading as it stands."""
    columns = HOURS if _is_hours(outcome) else columns
    rows = [
        [HEADS.get(name, name) if columns != HOURS or name != "paper" else "paper hours" for name in columns]
    ]
    rows += [[cells[name] for name in columns] for cells in _lines(outcome)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = ["| " + " | ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    texts = [outcome.table.note.strip(), *_reasons(outcome), *_trend_lines(outcome)]
    return "\n".join([f"### {heading(outcome)}", "", *lines, "", *(f"- {text}" for text in texts if text)])


def sections(outcome: TableOutcome) -> list[ReportSection]:
    """A table with its trends for the page."""
    columns = HOURS if _is_hours(outcome) else FULL
    names = [HEADS.get(name, name) for name in columns]
    table = Table(
        caption=outcome.table.title,
        columns=[
            "paper hours" if columns == HOURS and name == "paper" else shown
            for name, shown in zip(columns, names, strict=True)
        ],
        rows=[[cells[name] for name in columns] for cells in _lines(outcome)],
        note=" ".join([outcome.table.note.strip(), *_reasons(outcome)]).strip(),
    )
    return [Text(title=heading(outcome)), table, Text(body="\n\n".join(_trend_lines(outcome)))]


def table_facts(outcome: TableOutcome) -> dict[str, Any]:
    """A table for programs."""
    rows = {
        name: {
            "row": row.planned.row.row,
            "paper": row.planned.row.paper,
            "source": row.planned.row.source,
            "reason": row.reason,
            "ours": [
                {"boxes": m.boxes, "figures": {key: asdict(spread) for key, spread in m.figures.items()}}
                for m in row.measured
            ],
        }
        for name, row in outcome.rows.items()
    }
    trends = [
        {
            **asdict(t.claim),
            "boxes": t.boxes,
            "verdict": t.verdict,
            "difference": t.difference,
            "spread": t.spread,
        }
        for t in outcome.trends
    ]
    return {"table": outcome.table.name, "title": outcome.table.title, "rows": rows, "trends": trends}


def heading(outcome: TableOutcome) -> str:
    """`Table 4a: CLIP's feature map and class token`."""
    ours = " (ours, not the paper's)" if outcome.table.claimed_by != "the paper" else ""
    return f"Table {outcome.table.name.removeprefix('table')}: {outcome.table.title}{ours}"


def _is_hours(outcome: TableOutcome) -> bool:
    return all(row.planned.row.measure == "hours" for row in outcome.rows.values())


def _lines(outcome: TableOutcome) -> list[dict[str, str]]:
    """One line a row and kind of boxes; the paper's numbers stand in the first line of a row."""
    lines = []
    for row in outcome.rows.values():
        for i, measured in enumerate(row.measured or (None,)):
            lines.append({"row": row.planned.row.row, **_paper(row, first=i == 0), **_ours(measured)})
    return lines


def _paper(row: RowOutcome, *, first: bool) -> dict[str, str]:
    own = row.planned.row
    if not first:
        return {"paper data": NONE, "paper boxes": NONE, "paper": NONE}
    numbers = own.paper
    shown = f"{numbers['AP']:.1f}" if "AP" in numbers else NONE
    if "hours" in numbers:
        shown = f"{numbers['hours']:,.0f}"
    if parts := [numbers.get(name) for name in ("APr", "APc", "APf")]:
        known = [NONE if part is None else f"{part:.1f}" for part in parts]
        shown += f" ({'/'.join(known)})" if set(known) != {NONE} else ""
    if own.source != PAPER and numbers:
        shown += " *"
    return {"paper data": own.paper_data or NONE, "paper boxes": own.paper_boxes or NONE, "paper": shown}


def _ours(measured: Measured | None) -> dict[str, str]:
    figures = measured.figures if measured else {}
    cells = {column: _cell(figures.get(name)) for column, name in OURS.items()}
    parts = [figures.get(name) for name in ("APr", "APc", "APf")]
    means = [NONE if part is None else f"{part.mean:.1f}" for part in parts]
    cells["r / c / f"] = " / ".join(means) if set(means) != {NONE} else NONE
    cells["hours"] = _cell(figures.get("hours"), decimals=3)
    return {**cells, "boxes": (measured.boxes if measured else "") or NONE}


def _cell(spread: Spread | None, decimals: int = 1) -> str:
    if spread is None:
        return NONE
    sd = "" if spread.sd is None else f" ± {spread.sd:.{decimals}f}"
    return f"{spread.mean:.{decimals}f}{sd}"


def _reasons(outcome: TableOutcome) -> list[str]:
    """Why rows have no number of ours, rows of one reason together; and where other numbers come from."""
    by_reason: dict[str, list[str]] = {}
    for row in outcome.rows.values():
        if row.reason:
            by_reason.setdefault(row.reason, []).append(row.planned.row.row)
    texts = [f"{NONE} {', '.join(dict.fromkeys(rows))}: {reason}." for reason, rows in by_reason.items()]
    sources = {r.planned.row.source for r in outcome.rows.values() if r.planned.row.paper} - {PAPER}
    return texts + [f"* {source}." for source in sorted(sources)]


def _trend_lines(outcome: TableOutcome) -> list[str]:
    return [_trend_text(trend, outcome) for trend in outcome.trends]


def _trend_text(trend: Trend, outcome: TableOutcome) -> str:
    names = {name: _unique_label(name, outcome) for name in outcome.rows}
    better, worse = names[trend.claim.better], names[trend.claim.worse]
    sign = "<" if trend.claim.metric == "hours" else ">"
    text = f"{better} {sign} {worse} in {trend.claim.metric}: {trend.verdict}"
    if trend.difference is None:
        return f"{text}."
    unit = "" if trend.claim.metric == "hours" else " points"
    spread = "one run each" if trend.spread is None else f"spread {trend.spread:.1f}"
    where = f" on {trend.boxes}" if trend.boxes else ""
    return f"{text}{where} ({trend.difference:+.1f}{unit}, {spread})."


def _unique_label(name: str, outcome: TableOutcome) -> str:
    """The label of a row, with its boxes when another row is called the same."""
    row = outcome.rows[name].planned.row
    labels = [other.planned.row.row for other in outcome.rows.values()]
    return f"{row.row} ({row.paper_boxes or row.proposals})" if labels.count(row.row) > 1 else row.row
