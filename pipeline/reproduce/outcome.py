"""What came out: every row's numbers over the seeds, and whether a trend of the paper shows in them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from pipeline.reproduce.caches import extraction_hours, training_sources
from pipeline.reproduce.plan import Plan, Planned
from pipeline.reproduce.rows import Claim, PaperTable
from pipeline.reproduce.units import read_record
from pipeline.verbs.reproduce import ReproduceSettings

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
