"""`rs-cache reproduce`: the paper's tables in a world, every head trained once, with what is missing said."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipeline import console, executors
from pipeline.reproduce.inputs import prepare, sources_of, write_backbones
from pipeline.reproduce.outcome import TableOutcome, collect
from pipeline.reproduce.plan import make_plan
from pipeline.reproduce.report import show, write
from pipeline.reproduce.rows import load_tables
from pipeline.reproduce.schedule import Scheduler
from pipeline.reproduce.settings import ReproduceSettings
from pipeline.reproduce.units import TRAINED, Unit, is_record, run_unit
from regionspot_cache.errors import IncompleteError
from regionspot_cache.training.distributed import ProcessGroup
from regionspot_cache.training.folder import claim_folder


def reproduce(
    names: Sequence[str], settings: ReproduceSettings, *, as_json: bool = False
) -> list[TableOutcome]:
    """Runs what the tables lack, then prints and writes them; all tables when none is named.

    Raises:
        UsageError: no such table.
        InputError: another run holds the folder.
        DamageError: a record of an earlier run cannot be read.
        IncompleteError: some rows failed; the others are in the tables.
    """
    with claim_folder(settings.out, ProcessGroup()):
        return _reproduce(names, settings, as_json=as_json)


def _reproduce(names: Sequence[str], settings: ReproduceSettings, *, as_json: bool) -> list[TableOutcome]:
    started = time.monotonic()
    tables = load_tables(names, settings.tables)
    plan = make_plan(tables, settings)
    write_backbones(plan, settings)
    inputs = prepare(sources_of(plan, settings), settings)
    scheduler = Scheduler(settings=settings, inputs=inputs)
    failures = run_units(scheduler.units(plan), settings)
    outcomes = collect(tables, plan, scheduler, failures)
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


def run_units(units: Sequence[Unit], settings: ReproduceSettings) -> dict[Path, str]:
    """Everything that is not done yet; returns why files are missing, by file."""
    todo = [i for i, unit in enumerate(units) if not unit.done]
    console.say(f"{len(units) - len(todo)} of {len(units)} units of work are done already.")
    failures: dict[Path, str] = {}
    unit = partial(run_unit, units)
    if not todo:
        return failures
    workers = min(settings.workers, len(todo))
    found = (
        executors.run_on_workers(unit, todo, workers=workers) if workers else executors.run_here(unit, todo)
    )
    with console.progress("rows", len(todo)) as ticker:
        for done, (i, outcome) in enumerate(found, 1):
            if error := str(outcome):
                console.warn(f"{units[i].title}: {error} (log: {units[i].log})")
                failures |= dict.fromkeys(_files(units[i]), error)
            ticker.update(done, units[i].title)
    return {path: error for path, error in failures.items() if not is_record(path)}


def _files(unit: Unit) -> list[Path]:
    trained = [unit.training.out / TRAINED] if unit.training else []
    return trained + [evaluation.result for evaluation in unit.evaluations]
