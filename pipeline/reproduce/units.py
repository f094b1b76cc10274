"""Units of work: a trained head of one seed with its evaluations, and evaluations without a head.

A unit runs in whatever process, keeps its messages in a log, and skips what is done: results are files named
by a digest of all that decides them.
"""

import contextlib
import hashlib
import json
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.evaluate.run import evaluate
from pipeline.settings import EvalSettings, TrainSettings
from pipeline.train import train
from regionspot_cache.errors import DamageError, RegionSpotError
from regionspot_cache.files import replacing

TRAINED = "trained.json"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation and the file of its result."""

    settings: EvalSettings
    result: Path


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Work for one process.

    Attributes:
        title: for people.
        training: the head that the evaluations need; None when there is none.
    """

    title: str
    log: Path
    training: TrainSettings | None
    evaluations: tuple[Evaluation, ...]

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        trained = self.training is None or is_record(self.training.out / TRAINED)
        return trained and all(is_record(e.result) for e in self.evaluations)


def run_unit(units: Sequence[Unit], index: int) -> str:
    """Does what a unit lacks; returns the error that ended it, "" if none did."""
    unit = units[index]
    unit.log.parent.mkdir(parents=True, exist_ok=True)
    with (
        unit.log.open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
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
    if unit.training and not is_record(unit.training.out / TRAINED):
        _train(unit.training)
    for evaluation in unit.evaluations:
        if not is_record(evaluation.result):
            _evaluate(evaluation)


def _train(settings: TrainSettings) -> None:
    train(settings)
    write_record(settings.out / TRAINED, {"hours": training_hours(settings.out / "metrics.jsonl")})
    shutil.rmtree(settings.out / "checkpoints", ignore_errors=True)  # three times the head, needed no more


def training_hours(metrics: Path) -> float:
    """Hours that the steps of a run took, however often it was interrupted."""
    hours, last = 0.0, 0
    for line in metrics.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        hours += (entry["step"] - last) / entry["steps_per_second"] / 3600
        last = entry["step"]
    return hours


def _evaluate(evaluation: Evaluation) -> None:
    started = time.monotonic()
    (scored,) = evaluate(evaluation.settings)
    found = scored.result
    record = {**found.to_json(), "seconds": round(time.monotonic() - started, 1)}
    write_record(evaluation.result, record)
    assert evaluation.settings.out is not None
    shutil.rmtree(evaluation.settings.out, ignore_errors=True)


def is_record(path: Path) -> bool:
    """Whether a file holds what `write_record` wrote; one that a crash cut off is made again."""
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError, RecursionError):
        return False


def read_record(path: Path, part: Callable[[Any], T]) -> T:
    """What `part` takes from a record.

    Raises:
        DamageError: it cannot be read or lacks the part.
    """
    try:
        return part(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
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


def digest(*values: Any) -> str:
    """16 hex digits of values that JSON can hold, or dataclasses of such."""
    text = json.dumps(values, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    return asdict(value) if hasattr(value, "__dataclass_fields__") else str(value)
