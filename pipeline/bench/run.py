"""`rs-cache bench`: the chosen benchmarks one after the other, their tables, and a file to keep."""

import datetime
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.bench import report
from pipeline.bench.machine import is_busy, machine
from pipeline.bench.result import Findings
from pipeline.bench.settings import BENCHMARKS, BenchSettings


def bench(settings: BenchSettings, *, as_json: bool = False) -> dict[str, Any]:
    """Runs benchmarks by name (none: all), prints what was found and writes it to `settings.out`."""
    out = settings.out
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["rs-cache", *sys.argv[1:]]),
        "machine": machine(),
    }
    if is_busy(facts["machine"]):
        console.warn(f"other work is running here (load {facts['machine']['load before']}): do not keep this")
    found = {}
    for name in _chosen(settings.names):
        console.say(f"{name} ...")
        started = time.monotonic()
        found[name] = _measure(name, settings)
        console.say(f"{name}: {time.monotonic() - started:.0f} s")
    if out:
        report.write(out, facts, found)
    values = report.to_json(facts, found)
    console.result(values, report.text(found), as_json=as_json)
    return values


def _chosen(names: Sequence[str]) -> tuple[str, ...]:
    """In their usual order."""
    return tuple(name for name in BENCHMARKS if not names or name in names)


def _measure(name: str, settings: BenchSettings) -> Findings:
    module = import_module(f"pipeline.bench.{name}")
    with tempfile.TemporaryDirectory(prefix="rs-cache-bench-") as folder:
        return module.measure(settings, Path(folder))
