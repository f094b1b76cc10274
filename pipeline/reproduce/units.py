"""Units of work: a trained head of one seed with its evaluations, or an evaluation without a head.

A unit runs in whatever process, keeps its messages in a log, and skips what is done: it leaves records, small
JSON files that are whole or not there.
"""

import json
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.evaluate.run import evaluate
from pipeline.train import train
from pipeline.verbs.evaluate import EvalSettings
from pipeline.verbs.train import TrainSettings
from regionspot_cache.errors import DamageError, RegionSpotError
from regionspot_cache.files import replacing

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Work for one process, with a log of its own; `title` is the first row that needs it."""

    title: str
    log: Path
    training: TrainSettings | None
    """The head that the evaluations need, if any."""
    evaluations: Mapping[Path, EvalSettings]
    """By the file of the result."""

    @property
    def seed(self) -> int:
        """Of the head; -1 without one."""
        return self.training.training.seed if self.training else -1

    @property
    def records(self) -> list[Path]:
        """The files that it leaves, that of the head first."""
        return [*([trained_record(self.training)] if self.training else []), *self.evaluations]

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return all(map(is_record, self.records))


def run_unit(units: Sequence[Unit], index: int) -> str:
    """Does what a unit lacks; returns the error that ended it, "" if none did."""
    unit = units[index]
    unit.log.parent.mkdir(parents=True, exist_ok=True)
    with unit.log.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            _run(unit)
        except RegionSpotError as error:
            print(error)
            return f"{error.found} {error.expected}".strip()
        except Exception as error:  # one row must not end the others
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
    return ""


def _run(unit: Unit) -> None:
    if unit.training and not is_record(trained_record(unit.training)):
        folder = train(unit.training).folder
        write_record(trained_record(unit.training), {"hours": _training_hours(folder / "metrics.jsonl")})
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # three times the head, needed no more
    for file, settings in unit.evaluations.items():
        if not is_record(file) and settings.out:
            (scored,) = evaluate(settings)
            write_record(file, scored.result.to_json())
            shutil.rmtree(settings.out, ignore_errors=True)


def _training_hours(metrics: Path) -> float:
    """Hours that the steps of a run took, however often it was interrupted."""
    hours, last = 0.0, 0
    for line in metrics.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        hours += (entry["step"] - last) / entry["steps_per_second"] / 3600
        last = entry["step"]
    return hours


def trained_record(training: TrainSettings) -> Path:
    """The record of a finished head."""
    return training.out / "trained.json"


def is_record(path: Path) -> bool:
    """Whether there is a whole record; one that a crash cut off is made again."""
    return read_record(path, bool) is not None


def read_record(path: Path, part: Callable[[dict[str, Any]], T]) -> T | None:
    """What `part` takes from a record; None where there is no whole one.

    Raises:
        DamageError: the record lacks the part.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    try:
        return part(values)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise DamageError(
            f"{path} is damaged ({type(error).__name__}: {error}).",
            "The record that an earlier run wrote.",
            f"rm -r {path}   and run the same command again",
        ) from None


def write_record(path: Path, values: dict[str, Any]) -> None:
    """Writes values as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as staging:
        staging.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
