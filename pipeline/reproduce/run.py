"""The paper's tables in a world, every head trained once, with what is missing said; or a dry run."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import console, executors
from pipeline.reproduce.plan import Planned, make_plan, sources_of, units_of
from pipeline.reproduce.rows import PaperTable, load_table, table_names
from pipeline.reproduce.tables import TableOutcome, collect, show, write
from pipeline.reproduce.work import Unit, cache_folder, is_record, prepare, run_unit, state
from pipeline.verbs.reproduce import ReproduceSettings
from regionspot_cache.errors import IncompleteError, RegionSpotError
from regionspot_cache.training.distributed import ProcessGroup
from regionspot_cache.training.folder import claim_folder


def reproduce(settings: ReproduceSettings, *, as_json: bool = False) -> list[TableOutcome]:
    """Runs what the tables lack, then prints and writes them.

    Raises:
        InputError: another run holds the folder.
        DamageError: a record of an earlier run cannot be read.
        IncompleteError: some rows failed; the others are in the tables.
    """
    with claim_folder(settings.out, ProcessGroup()):
        started = time.monotonic()
        tables = _tables(settings)
        missing = prepare(sources_of(tables, settings), settings)
        plan = make_plan(tables, settings, missing)
        failures = _run_units(units_of(plan), settings)
        outcomes = collect(tables, plan, settings, failures)
        seconds = time.monotonic() - started
        write(outcomes, settings, seconds)
    show(outcomes, settings, as_json=as_json)
    console.say(f"Done in {console.clock(seconds)}. Tables, page and numbers are in {settings.out}.")
    if failures:
        raise IncompleteError(
            f"{len(failures)} heads or evaluations failed: {next(iter(failures.values()))}",
            "Every row that this world can run.",
            f"See {settings.out / 'logs'}, then run the same command again; what is done is kept.",
        )
    return outcomes


def _tables(settings: ReproduceSettings) -> list[PaperTable]:
    return [load_table(name, settings.tables) for name in settings.names or table_names(settings.tables)]


def _run_units(units: Sequence[Unit], settings: ReproduceSettings) -> dict[Path, str]:
    """Everything that is not done yet; returns why files are missing, by file."""
    todo = [i for i, unit in enumerate(units) if not unit.done]
    console.say(f"{len(units) - len(todo)} of {len(units)} units of work are done already.")
    failures: dict[Path, str] = {}
    if not todo:
        return failures
    run = executors.run_here
    if settings.workers:
        run = partial(executors.run_on_workers, workers=min(settings.workers, len(todo)))
    found = run(partial(run_unit, units), todo)
    with console.progress("rows", len(todo)) as ticker:
        for done, (i, outcome) in enumerate(found, 1):
            if error := str(outcome):
                console.warn(f"{units[i].title}: {error} (log: {units[i].log})")
                failures |= dict.fromkeys(units[i].records, error)
            ticker.update(done, units[i].title)
    return {path: error for path, error in failures.items() if not is_record(path)}


def dry_run(settings: ReproduceSettings, *, as_json: bool = False) -> None:
    """Prints the rows, what would be extracted, trained and evaluated, and what is missing; does nothing."""
    tables = _tables(settings)
    states = {source: state(source, settings) for source in sources_of(tables, settings)}
    missing = {source: error for source, error in states.items() if isinstance(error, RegionSpotError)}
    plan = make_plan(tables, settings, missing)
    units = units_of(plan)
    heads = {unit.training.out.parent: unit.title for unit in units if unit.training}
    runs = [units for planned in plan.values() for units in planned.runs.values()]
    measured = {units[0].records[-1] for units in runs if units[0].evaluations}
    facts = {
        "world": settings.world,
        "roles": {**settings.training, **settings.backbones},
        "caches": {
            str(cache_folder(source, settings)): getattr(text, "found", text)
            for source, text in states.items()
        },
        "missing": {source.dataset: error.expected for source, error in missing.items() if error.expected},
        "heads": len(heads),
        "seeds": settings.seeds,
        "steps": sum(unit.training.training.total_steps for unit in units if unit.training),
        "measurements": len(measured),
        "units": len(units),
        "units_to_do": sum(not unit.done for unit in units),
        "tables": {
            table.name: {
                f"{name}: {row.row}": _expected(plan[table.name, name]) for name, row in table.rows.items()
            }
            for table in tables
        },
    }
    console.result(facts, _text(facts, list(heads.values())), as_json=as_json)


def _expected(planned: Planned) -> str:
    if planned.reason:
        return f"– {planned.reason}"
    return f"runs, {', '.join(boxes or 'hours' for boxes in planned.runs)}"


def _text(facts: Mapping[str, Any], heads: Sequence[str]) -> str:
    roles = ", ".join(f"{role} is {name}" for role, name in facts["roles"].items() if role != name)
    lines = [f"World {facts['world']}; {roles}"]
    lines += ["", "Caches:", *(f"  {path}: {text}" for path, text in facts["caches"].items())]
    if facts["missing"]:
        lines += ["", "Missing:", *(f"  {name}: {where}" for name, where in facts["missing"].items())]
    lines += ["", f"Heads (seeds: {facts['seeds']}; steps in all: {facts['steps']:,}):"]
    lines += [f"  {title}" for title in heads]
    lines += ["", f"Units of work: {facts['units_to_do']} to do of {facts['units']}."]
    for table, rows in facts["tables"].items():
        lines += ["", f"{table}:", *(f"  {row}: {text}" for row, text in rows.items())]
    return "\n".join(lines)
