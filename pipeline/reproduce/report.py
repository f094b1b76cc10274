"""Finished tables to people and programs: on stdout, as Markdown, as a page and as JSON."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import date

from pipeline import console
from pipeline.reproduce.outcome import SPREADS, TableOutcome
from pipeline.reproduce.rows import PAPER
from pipeline.reproduce.tables import SHORT, markdown, sections, table_facts
from pipeline.verbs.reproduce import ReproduceSettings
from regionspot_cache.files import replacing
from regionspot_cache.reporting.page import Text, write_report


def show(outcomes: Sequence[TableOutcome], settings: ReproduceSettings, *, as_json: bool) -> None:
    values = {"world": settings.world, "tables": [table_facts(outcome) for outcome in outcomes]}
    text = "\n\n".join(markdown(outcome, SHORT) for outcome in outcomes)
    console.result(values, f"{text}\n\nOurs: {settings.made_on}.\n{summary(outcomes)}", as_json=as_json)


def summary(outcomes: Sequence[TableOutcome]) -> str:
    """How many trends of the paper show."""
    verdicts = [t.verdict for o in outcomes if o.table.claimed_by == "the paper" for t in o.trends]
    counted = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    return (
        "Trends of the paper: " + ", ".join(f"{count} {verdict}" for verdict, count in counted.items()) + "."
    )


def write(outcomes: Sequence[TableOutcome], settings: ReproduceSettings, seconds: float) -> None:
    """`tables.md`, `report.html` and `results.json` in the folder of the run."""
    facts, texts = _facts(settings, seconds), _introduction(outcomes, settings)
    made = ", ".join(facts.values()) + "."
    values = {"world": settings.world, **facts, "tables": [table_facts(outcome) for outcome in outcomes]}
    _replace(settings, "results.json", json.dumps(values, indent=1) + "\n")
    parts = ["# The paper's tables and ours", *texts, made, *map(markdown, outcomes)]
    _replace(settings, "tables.md", "\n\n".join(parts) + "\n")
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


def _replace(settings: ReproduceSettings, name: str, content: str) -> None:
    with replacing(settings.out / name) as staging:
        staging.write_text(content, encoding="utf-8")


def _facts(settings: ReproduceSettings, seconds: float) -> dict[str, str]:
    import torch

    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    return {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores of {platform.machine()}, {cuda}",
        "torch": f"torch {torch.__version__}",
        "time": f"this call took {console.clock(seconds)} with {settings.workers} workers",
    }
