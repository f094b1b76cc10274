"""Ctrl-C and SIGTERM in the middle of a run."""

import signal
from pathlib import Path

import pytest

from regionspot_cache.training import StepReport, train
from tests.training.fake import make_config, make_source
from tests.training.test_loop import assert_equal_runs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    tmp_path: Path, number: signal.Signals
) -> None:
    def on_step(report: StepReport) -> None:
        if report.step == 7:
            signal.raise_signal(number)

    usual = signal.getsignal(number)
    config = make_config(checkpoint_seconds=float("inf"), log_every=1)
    with pytest.raises(KeyboardInterrupt):
        train([make_source()], config, tmp_path / "stopped", on_step=on_step)
    assert [path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir()] == ["step-000000007"]
    assert signal.getsignal(number) is usual
    assert train([make_source()], config, tmp_path / "stopped").resumed_from == 7
    train([make_source()], config, tmp_path / "whole")
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")


def test_the_second_signal_does_not_wait(tmp_path: Path) -> None:
    def on_step(report: StepReport) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("still running")

    with pytest.raises(KeyboardInterrupt):
        train([make_source()], make_config(log_every=1, checkpoint_seconds=99), tmp_path, on_step=on_step)
    assert not (tmp_path / "checkpoints").exists()
