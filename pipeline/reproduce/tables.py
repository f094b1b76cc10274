"""What came out: every row's numbers over the seeds beside the paper's, what it shows, and the pages."""

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from pipeline import console
from pipeline.reproduce.plan import Plan, Planned
from pipeline.reproduce.rows import PAPER, Claim, PaperTable, Row
from pipeline.reproduce.work import extraction_hours, read_record, training_sources
from pipeline.verbs.reproduce import ReproduceSettings
from regionspot_cache.files import replacing
from regionspot_cache.reporting.page import ReportSection, Table, Text, write_report

SHORT = ("row", "paper boxes", "paper AP (r/c/f)", "our boxes", "our AP", "novel", "top-1")
FULL = ("row", "paper data", *SHORT[1:6], "base", "r / c / f", "top-1", "top-1 novel")
HOURS = ("row", "paper data", "paper hours", "our hours")
OURS = {"our AP": "AP", "novel": "AP novel", "base": "AP base", "top-1": "top1", "top-1 novel": "top1 novel"}
PARTS = ("APr", "APc", "APf")
NONE = "–"
SPREADS = 2.0  # differences within so many standard deviations say nothing, with three seeds
FIGURES = ("AP", "APr", "APc", "APf", "AP novel", "AP base", "top1", "top1 novel", "top1 base")
Verdict = Literal["reproduced", "not reproduced", "within the spread", "not measured"]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and standard deviation (n - 1) of one figure over n runs; no deviation of a single run."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(mean=fmean(values), sd=stdev(values) if len(values) > 1 else None, n=len(values))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A row on one kind of boxes: AP and top-1 in percent, or hours, by name."""

    boxes: str
    figures: Mapping[str, Spread]


@dataclass(frozen=True, kw_only=True)
class RowOutcome:
    """A row's numbers, its own boxes first; without any, the reason."""

    planned: Planned
    measured: tuple[Measured, ...]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Trend:
    """A claim against our numbers on one kind of boxes."""

    claim: Claim
    boxes: str
    verdict: Verdict
    difference: float | None = None
    """Ahead is positive; None when it could not be measured."""
    spread: float | None = None
    """Pooled standard deviation of both rows; None when neither was run more than once."""


@dataclass(frozen=True, kw_only=True)
class TableOutcome:
    """A finished table."""

    table: PaperTable
    rows: Mapping[str, RowOutcome]
    trends: tuple[Trend, ...]


def collect(
    tables: Sequence[PaperTable], plan: Plan, settings: ReproduceSettings, failures: Mapping[Path, str]
) -> list[TableOutcome]:
    """The tables from the results on disk; `failures` say by file why one is not there."""
    outcomes = []
    for table in tables:
        rows = {name: _row(plan[table.name, name], settings, failures) for name in table.rows}
        trends = tuple(trend for claim in table.claims for trend in trends_of(claim, rows))
        outcomes.append(TableOutcome(table=table, rows=rows, trends=trends))
    return outcomes


def trends_of(claim: Claim, rows: Mapping[str, RowOutcome]) -> list[Trend]:
    """A claim on the rows' own boxes, and on other boxes that both were measured on."""
    better, worse = (
        rows[rows[name].planned.same_as or name].measured for name in (claim.better, claim.worse)
    )
    pairs = [(better[0], worse[0])] if better and worse else []
    pairs += [(b, w) for b in better[1:] for w in worse[1:] if b.boxes == w.boxes]
    found = [_trend(claim, b, w) for b, w in pairs if claim.metric in b.figures and claim.metric in w.figures]
    return found or [Trend(claim=claim, boxes="", verdict="not measured")]


def _trend(claim: Claim, better: Measured, worse: Measured) -> Trend:
    ahead, behind = better.figures[claim.metric], worse.figures[claim.metric]
    difference = ahead.mean - behind.mean
    if claim.metric == "hours":
        difference = -difference
    known = [s.sd**2 for s in (ahead, behind) if s.sd is not None]
    spread = math.sqrt(fmean(known)) if known else None
    verdict: Verdict = "reproduced" if difference > 0 else "not reproduced"
    if spread is not None and abs(difference) <= SPREADS * spread:
        verdict = "within the spread"
    boxes = better.boxes if better.boxes == worse.boxes else f"{better.boxes} against {worse.boxes}"
    return Trend(claim=claim, boxes=boxes, verdict=verdict, difference=difference, spread=spread)


def _row(planned: Planned, settings: ReproduceSettings, failures: Mapping[Path, str]) -> RowOutcome:
    if not planned.runs:
        return RowOutcome(planned=planned, measured=(), reason=planned.reason)
    extraction = [extraction_hours(source, settings) for source in training_sources(planned.row, settings)]
    if planned.row.measure == "hours" and None in extraction:
        reason = "the caches were made elsewhere, in unknown time"
        return RowOutcome(planned=planned, measured=(), reason=reason)
    measured, reasons = [], []
    read = partial(_figures, measure=planned.row.measure, before=sum(filter(None, extraction)))
    for boxes, units in planned.runs.items():
        files = [unit.records[-1] for unit in units]
        runs = {file: run for file in files if (run := read_record(file, read)) is not None}
        missing = [file for file in files if file not in runs]
        why = dict.fromkeys(failures.get(file, "not run") for file in missing)
        reasons += [f"{len(missing)} of {len(files)} runs: {reason}" for reason in why]
        if runs:
            first, *others = runs.values()
            names = [name for name in first if all(name in other for other in others)]
            spreads = {name: Spread.of([run[name] for run in runs.values()]) for name in names}
            measured.append(Measured(boxes=boxes, figures=spreads))
    return RowOutcome(planned=planned, measured=tuple(measured), reason="; ".join(dict.fromkeys(reasons)))


def _figures(record: dict[str, Any], *, measure: str, before: float) -> dict[str, float]:
    """Of one run; `before` are the hours of extraction."""
    if measure == "hours":
        return {"hours": before + float(record["hours"])}
    found = {**record["metrics"][measure], **record["metrics"].get("accuracy", {})}
    # -1: nothing to find
    return {name: 100 * found[name] for name in FIGURES if found.get(name, -1) >= 0}


def show(outcomes: Sequence[TableOutcome], settings: ReproduceSettings, *, as_json: bool) -> None:
    """The tables in short on stdout."""
    values = {"world": settings.world, "tables": [table_facts(outcome) for outcome in outcomes]}
    text = "\n\n".join(markdown(outcome, SHORT) for outcome in outcomes)
    console.result(values, f"{text}\n\nOurs: {settings.made_on}.\n{summary(outcomes)}", as_json=as_json)


def summary(outcomes: Sequence[TableOutcome]) -> str:
    """How many trends of the paper show."""
    verdicts = [t.verdict for o in outcomes if o.table.claimed_by != "this package" for t in o.trends]
    counted = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    return (
        "Trends of the paper: " + ", ".join(f"{count} {verdict}" for verdict, count in counted.items()) + "."
    )


def write(outcomes: Sequence[TableOutcome], settings: ReproduceSettings, seconds: float) -> None:
    """`tables.md`, `report.html` and `results.json` in the folder of the run."""
    facts, texts = _facts(settings, seconds), _introduction(outcomes, settings)
    made = ", ".join(facts.values()) + "."
    values = {"world": settings.world, **facts, "tables": [table_facts(outcome) for outcome in outcomes]}
    parts = ["# The paper's tables and ours", *texts, made, *map(markdown, outcomes)]
    for name, content in (
        ("results.json", json.dumps(values, indent=1)),
        ("tables.md", "\n\n".join(parts)),
    ):
        with replacing(settings.out / name) as staging:
            staging.write_text(f"{content}\n", encoding="utf-8")
    head = Text(body="\n\n".join([*texts, made]))
    body = [section for outcome in outcomes for section in sections(outcome)]
    page = settings.out / "report.html"
    write_report(page, "The paper's tables and ours", f"World: {settings.world}", [head, *body])


def _introduction(outcomes: Sequence[TableOutcome], settings: ReproduceSettings) -> list[str]:
    return [
        f"Paper: {PAPER}; AP in percent on LVIS v1 val. Ours: {settings.made_on}; mean ± standard deviation "
        f"over {settings.seeds} seeds.",
        f'"Within the spread": a difference of at most {SPREADS:.0f} times the pooled standard deviation, '
        "which neither shows nor refutes a trend.",
        summary(outcomes),
    ]


def _facts(settings: ReproduceSettings, seconds: float) -> dict[str, str]:
    import torch

    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    return {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores of {platform.machine()}, {cuda}",
        "torch": f"torch {torch.__version__}",
        "time": f"this call took {console.clock(seconds)} with {settings.workers} workers",
    }


def markdown(outcome: TableOutcome, columns: Sequence[str] = FULL) -> str:
    """A table with its trends as Markdown, its columns aligned for reading as it stands."""
    rows = _cells(outcome, columns)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    texts = [outcome.table.note.strip(), *_reasons(outcome), *_trends(outcome)]
    return "\n".join([f"### {heading(outcome)}", "", *lines, "", *(f"- {text}" for text in texts if text)])


def sections(outcome: TableOutcome) -> list[ReportSection]:
    """A table with its trends for the page."""
    columns, *rows = _cells(outcome, FULL)
    note = " ".join([outcome.table.note.strip(), *_reasons(outcome)]).strip()
    table = Table(caption=outcome.table.title, columns=columns, rows=[list(row) for row in rows], note=note)
    return [Text(title=heading(outcome)), table, Text(body="\n\n".join(_trends(outcome)))]


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
    whose = {"RegionCLIP": " (RegionCLIP's question)", "this package": " (ours, not the paper's)"}
    name, table = outcome.table.name.removeprefix("table"), outcome.table
    return f"Table {name}: {table.title}{whose.get(table.claimed_by, '')}"


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
    star = " *" if row.source != PAPER else ""
    cells = {"paper data": row.paper_data, "paper boxes": row.paper_boxes}
    if "AP" in row.paper:
        cells["paper AP (r/c/f)"] = f"{row.paper['AP']:.1f}{_parts(row.paper, ' ({}/{}/{})')}{star}"
    if "hours" in row.paper:
        cells["paper hours"] = f"{row.paper['hours']:,.0f}{star}"
    return cells


def _ours(figures: Mapping[str, Spread]) -> dict[str, str]:
    means = {name: spread.mean for name, spread in figures.items()}
    cells = {column: _spread(figures[name], 1) for column, name in OURS.items() if name in figures}
    if "hours" in figures:
        cells["our hours"] = _spread(figures["hours"], 3)
    return cells | {"r / c / f": _parts(means, "{} / {} / {}")}


def _parts(values: Mapping[Any, float], template: str) -> str:
    """AP of rare, common and frequent classes; nothing where none is known."""
    shown = [f"{values[name]:.1f}" if name in values else NONE for name in PARTS]
    return template.format(*shown) if set(shown) != {NONE} else ""


def _spread(spread: Spread, decimals: int) -> str:
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


def _trends(outcome: TableOutcome) -> list[str]:
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
