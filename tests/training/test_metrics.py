"""Curves survive interruptions without doubled or torn lines."""

import dataclasses
import json
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from regionspot_cache.training.config import TrainConfig
from regionspot_cache.training.metrics import METRICS_FILE, MetricsLog, StepReport


def report(step: int) -> StepReport:
    values = {field.name: 1.0 for field in dataclasses.fields(StepReport)}
    return StepReport(**{**values, "stage": "one", "step": step, "total_steps": 9, "loss": step / 4})


def test_a_resumed_log_continues_at_its_checkpoint(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0, TrainConfig())
    for step in (1, 2, 3):
        log.write(report(step))
    log.close()
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 1, "lo')  # torn by a crash
    log = MetricsLog(tmp_path, 2, TrainConfig())
    log.write(report(3))
    log.close()
    steps = [json.loads(line)["step"] for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert steps == [1, 2, 3]
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(1, 0.25), (2, 0.5), (3, 0.75)]
