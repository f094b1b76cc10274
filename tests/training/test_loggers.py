"""Loggers beside metrics.jsonl; Weights & Biases by a module that remembers what it is told."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest

from regionspot_cache.errors import InputError, UsageError
from regionspot_cache.training import TrainConfig, train
from regionspot_cache.training.loggers import LOGGERS, RUN_FILE
from tests.training.fake import make_config, make_source


class Service(ModuleType):
    """A wandb that keeps its runs."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0
        self.refusal = ""

    def Settings(self, **values: Any) -> dict[str, Any]:  # noqa: N802
        return values

    def init(self, **how: Any) -> Any:
        if self.refusal:
            raise self.Error(self.refusal)
        self.started.append(how)
        return SimpleNamespace(log=self._log, finish=self._finish)

    def _log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def _finish(self) -> None:
        self.finished += 1


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    found = Service()
    monkeypatch.setitem(sys.modules, "wandb", found)
    for name in ("WANDB_PROJECT", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_a_run_is_shown_and_a_resumed_one_continues_it(tmp_path: Path, service: Service) -> None:
    folder = tmp_path / "mine"
    how = make_config(4, loggers=("wandb",), log_every=2)

    def stop(report: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train([make_source()], how, folder, on_step=stop)
    train([make_source()], how, folder)
    first, second = service.started
    assert first["id"] == second["id"] == (folder / RUN_FILE).read_text()
    assert (first["name"], first["project"], first["dir"]) == ("mine", "regionspot-cache", str(folder))
    assert first["config"]["batch_size"] == how.batch_size
    assert service.finished == 2
    assert [step for step, _ in service.logged][-2:] == [2, 4]
    assert set(service.logged[-1][1]) >= {"loss", "learning_rate", "gradient_norm"}
    assert not (folder / "tensorboard").exists()


def test_no_logger_leaves_the_file_alone(tmp_path: Path) -> None:
    train([make_source()], make_config(2, loggers=()), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") >= 1
    assert not (tmp_path / "tensorboard").exists()


def test_a_refusal_is_one_error(tmp_path: Path, service: Service) -> None:
    service.refusal = "api_key not configured"
    with pytest.raises(InputError, match="api_key not configured") as raised:
        train([make_source()], make_config(2, loggers=("wandb",)), tmp_path)
    assert "WANDB_MODE=offline" in raised.value.expected


def test_a_missing_package_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regionspot_cache.training.config.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="not installed") as raised:
        TrainConfig(loggers=("tensorboard", "wandb"))
    assert "uv pip install wandb" in raised.value.remedy


def test_every_name_has_a_logger() -> None:
    [names, _] = get_args(get_type_hints(TrainConfig)["loggers"])
    assert set(get_args(names)) == set(LOGGERS)


def test_loggers_may_differ_when_a_run_is_resumed(service: Service) -> None:
    assert TrainConfig().identity() == TrainConfig(loggers=("wandb",)).identity()
