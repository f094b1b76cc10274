"""Training curves: `metrics.jsonl` for programs, loggers for eyes, `StepReport` for a live line."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from regionspot_cache.files import replacing
from regionspot_cache.training.config import TrainConfig
from regionspot_cache.training.loggers import LOGGERS

METRICS_FILE = "metrics.jsonl"
_CURVES = ("loss", "learning_rate", "gradient_norm", "steps_per_second", "samples_per_second", "waiting")


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """State of a run after `step` steps."""

    stage: str  # name of the stage
    step: int  # steps done over all stages
    total_steps: int  # steps of all stages
    epoch: float  # passes over the stage's sources so far
    loss: float  # mean over the steps since the last report
    learning_rate: float
    gradient_norm: float  # of the last step, before clipping
    steps_per_second: float
    samples_per_second: float  # images, over all processes
    waiting: float  # share of the time, 0 to 1, that the step waited for data
    seconds_left: float  # at the present speed


class MetricsLog:
    """Appends reports below `folder` and to the loggers; those after `resumed_at` steps are cut off first."""

    def __init__(self, folder: Path, resumed_at: int, config: TrainConfig) -> None:
        path = folder / METRICS_FILE
        _cut(path, resumed_at)
        settings = config.identity()
        self._loggers = [LOGGERS[name](folder, resumed_at, settings) for name in config.loggers]
        self._lines = path.open("a", encoding="utf-8")

    def write(self, report: StepReport) -> None:
        self._lines.write(json.dumps(dataclasses.asdict(report)) + "\n")
        self._lines.flush()
        curves = {name: getattr(report, name) for name in _CURVES}
        for logger in self._loggers:
            logger.write(curves, report.step)

    def close(self) -> None:
        self._lines.close()
        for logger in self._loggers:
            logger.close()


def _cut(path: Path, last_step: int) -> None:
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [f"{line}\n" for line in lines if _step(line) <= last_step]
        with replacing(path) as staging:
            staging.write_text("".join(kept), encoding="utf-8")


def _step(line: str) -> float:
    """Step of a line; a line torn by a crash counts as too late."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
