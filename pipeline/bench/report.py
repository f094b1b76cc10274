"""Findings as text, Markdown and JSON."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.bench.result import Findings, Row

COLUMNS = ["what", "unit", "ours", "peer", "theirs", "ratio", "goal", "met"]


def text(found: Mapping[str, Findings]) -> str:
    """For people: our value of each piece of work, and below it every peer."""
    return "\n\n".join("\n".join([name, *_lines(findings)]) for name, findings in found.items())


def _lines(findings: Findings) -> Iterator[str]:
    heading = None
    for row in findings.rows:
        own = f"  {row.what}: {number(median(row.ours))} {row.unit}"
        if not row.peer:
            own += _verdict(row)
        if own != heading:
            yield own
        heading = own
        if row.peer:
            theirs, ratio = number(median(row.theirs)), number(row.ratio or 0)
            yield f"    {row.peer:<34} {theirs:>10}  {ratio:>7}x{_verdict(row)}"
    yield from (f"  - {note}" for note in findings.notes)


def _verdict(row: Row) -> str:
    return "" if row.goal is None else f"  goal {row.goal}: {'met' if row.met else 'NOT met'}"


def to_json(facts: Mapping[str, Any], found: Mapping[str, Findings]) -> dict[str, Any]:
    """All runs, not only medians."""
    results = {
        name: {"rows": [row.to_dict() for row in findings.rows], "notes": findings.notes}
        for name, findings in found.items()
    }
    return {**facts, "results": results}


def markdown(facts: Mapping[str, Any], found: Mapping[str, Findings]) -> str:
    """A page with the date, the command, the machine, and a table for each benchmark."""
    lines = [f"# Benchmarks, {facts['date']}", "", f"    {facts['command']}", "", *_facts(facts["machine"])]
    for name, findings in found.items():
        lines += ["", f"## {name}", "", *_table(findings), *(f"- {note}" for note in findings.notes)]
    return "\n".join(lines) + "\n"


def write(out: Path, facts: Mapping[str, Any], found: Mapping[str, Findings]) -> None:
    """FILE.md, and FILE.json beside it."""
    out.write_text(markdown(facts, found), encoding="utf-8")
    content = json.dumps(to_json(facts, found), indent=1)
    out.with_suffix(".json").write_text(content + "\n", encoding="utf-8")


def _facts(machine: Mapping[str, Any]) -> list[str]:
    return ["| machine | |", "|---|---|", *(f"| {key} | {value} |" for key, value in machine.items())]


def _table(findings: Findings) -> list[str]:
    if not findings.rows:
        return []
    rule = "|".join(["---"] + ["---:"] * (len(COLUMNS) - 1))
    rows = ["| " + " | ".join(_cells(row)) + " |" for row in findings.rows]
    return ["| " + " | ".join(COLUMNS) + " |", f"|{rule}|", *rows, ""]


def _cells(row: Row) -> list[str]:
    return [
        row.what,
        row.unit,
        number(median(row.ours)),
        row.peer or "-",
        number(median(row.theirs)) if row.theirs else "-",
        "-" if row.ratio is None else f"{number(row.ratio)}x",
        str(row.goal) if row.goal else "-",
        {True: "yes", False: "no", None: "-"}[row.met],
    ]


def number(value: float) -> str:
    """Three digits: `12,300`, `4.56`, `1.2e-05`."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"
