"""Measures speeds here, side by side with what people use for each part: `python -m benchmarks`."""

import argparse
import datetime
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.harness import Findings, Row, machine, markdown
from benchmarks.settings import Settings
from regionspot_cache.config import load_config
from regionspot_cache.errors import RegionSpotError

NAMES = ("read", "encoder", "extract", "train", "evaluate", "plan", "workers", "examples", "own_labels")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the measurements that are named (all when none is), prints their tables and keeps them."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.out and options.out.suffix != ".md":
        parser.error(f"--out {options.out}: FILE.md, and FILE.json is written beside it")
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no measurement {min(unknown)}; one of {', '.join(NAMES)}")
    try:
        given = {"backbone": options.backbone, "full": options.full or None}
        settings = load_config(Settings, options.config, options.set, **given)
        _run([name for name in NAMES if name in (options.names or NAMES)], settings, options.out)
    except RegionSpotError as error:
        sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; all if not given")
    parser.add_argument("--full", action="store_true", help="full sizes: up to an hour, gigabytes of disk")
    parser.add_argument("--backbone", help="networks of extract and workers: a preset or a YAML file")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="a page to write, FILE.json beside it")
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="see benchmarks/settings.py")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one of the settings")
    return parser


def _run(names: Sequence[str], settings: Settings, out: Path | None) -> None:
    facts = machine()
    if facts["load before"] > 0.5:
        load = facts["load before"]
        print(f"warning: other work is running here (load {load}): do not keep this", file=sys.stderr)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    found: dict[str, Findings] = {}
    for name in names:
        print(f"{name} ...", file=sys.stderr)
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
            found[name] = import_module(f"benchmarks.{name}").measure(settings, Path(folder))
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        print(f"## {name}\n\n{markdown(found[name])}\n")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"# Benchmarks, {date}", "", f"    {command}", "", "| machine | |", "|---|---|"]
        lines += [f"| {key} | {value} |" for key, value in facts.items()]
        lines += [f"\n## {name}\n\n{markdown(rows)}" for name, rows in found.items()]
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")
        document: dict[str, Any] = {"date": date, "command": command, "machine": facts}
        document["results"] = {
            name: [row.to_dict() if isinstance(row, Row) else row for row in rows]
            for name, rows in found.items()
        }
        out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
