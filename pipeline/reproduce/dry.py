"""`rs-cache reproduce --dry-run`: what would be extracted, trained and measured, and what is missing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.reproduce.inputs import Inputs, cache_folder, cache_identity, sources_of, state
from pipeline.reproduce.plan import Plan, heads_of, make_plan, measurements_of
from pipeline.reproduce.rows import PaperTable, load_tables
from pipeline.reproduce.schedule import Scheduler, describe
from pipeline.reproduce.settings import ReproduceSettings
from regionspot_cache.errors import RegionSpotError


def dry_run(names: Sequence[str], settings: ReproduceSettings, *, as_json: bool = False) -> None:
    """Prints the rows, what would be extracted, trained and evaluated, and what is missing; does nothing."""
    tables = load_tables(names, settings.tables)
    plan = make_plan(tables, settings)
    states = {source: state(source, settings) for source in sources_of(plan, settings)}
    errors = {source: error for source, error in states.items() if isinstance(error, RegionSpotError)}
    inputs = Inputs(reasons={source: error.found for source, error in errors.items()})
    for source in states:
        inputs.identities[source] = _identity_if_ready(cache_folder(source, settings))
    scheduler = Scheduler(settings=settings, inputs=inputs)
    units = scheduler.units(plan)
    facts = {
        "world": settings.world,
        "roles": {**settings.training, **settings.backbones},
        "caches": {
            str(cache_folder(s, settings)): getattr(text, "found", text) for s, text in states.items()
        },
        "missing": {source.dataset: error.expected for source, error in errors.items() if error.expected},
        "heads": len(heads_of(plan)),
        "seeds": settings.seeds,
        "steps": sum(u.training.training.total_steps for u in units if u.training),
        "measurements": len(measurements_of(plan)),
        "units": len(units),
        "units_to_do": sum(not unit.done for unit in units),
        "tables": {table.name: _row_states(table, plan, scheduler) for table in tables},
    }
    console.result(facts, _text(facts, plan, settings), as_json=as_json)


def _identity_if_ready(path: Path) -> dict[str, Any]:
    try:
        return cache_identity(path)
    except RegionSpotError:
        return {"to extract": str(path)}


def _row_states(table: PaperTable, plan: Plan, scheduler: Scheduler) -> dict[str, str]:
    states = {}
    for name in table.rows:
        planned = plan[table.name, name]
        wanted = planned.measurements or ((planned.head,) if planned.head else ())
        reason = planned.reason or next(filter(None, map(scheduler.blocked, wanted)), "")
        boxes = ", ".join(m.boxes.called for m in planned.measurements) or "hours"
        states[f"{name}: {planned.row.row}"] = f"– {reason}" if reason else f"runs, {boxes}"
    return states


def _text(facts: dict[str, Any], plan: Plan, settings: ReproduceSettings) -> str:
    roles = ", ".join(f"{role} is {name}" for role, name in facts["roles"].items() if role != name)
    lines = [f"World {facts['world']}; {roles}"]
    lines += ["", "Caches:", *(f"  {path}: {text}" for path, text in facts["caches"].items())]
    if facts["missing"]:
        lines += ["", "Missing:", *(f"  {name}: {where}" for name, where in facts["missing"].items())]
    lines += ["", f"Heads (seeds: {facts['seeds']}; steps in all: {facts['steps']:,}):"]
    lines += [f"  {describe(head, settings.train.head)}" for head in heads_of(plan)]
    lines += ["", f"Units of work: {facts['units_to_do']} to do of {facts['units']}."]
    for table, rows in facts["tables"].items():
        lines += ["", f"{table}:", *(f"  {row}: {text}" for row, text in rows.items())]
    return "\n".join(lines)
