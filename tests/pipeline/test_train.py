"""`rs-cache train`."""

import json
import shutil
from pathlib import Path

import pytest

from tests.running import rs_cache

CACHES = Path("rs-cache-data/caches")
RUN = Path("rs-cache-data/runs/small")


@pytest.fixture
def extracted(workplace: Path, finished: Path) -> Path:
    shutil.copytree(finished / CACHES, workplace / CACHES)
    return workplace


def test_a_run_leaves_a_model_that_says_what_it_needs(finished: Path) -> None:
    folder = finished / RUN
    config = json.loads((folder / "config.json").read_text())
    assert {"sam", "clip", "text", "token_position"} <= set(config)
    assert (folder / "model.safetensors").is_file()
    assert "random:2" in (folder / "backbone.yaml").read_text()
    names = (folder / "classes.txt").read_text().splitlines()
    assert len(names) == len(set(names)) > 20


def test_progress_on_stderr_result_on_stdout_and_a_finished_run_stays(extracted: Path) -> None:
    ran = rs_cache("train", "--config", "train.yaml", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["steps"] == 6
    assert ran.json["left_out"] == {"shapes-train-small": {}}
    assert "steps/s" in ran.err or "s/step" in ran.err
    before = {path: path.read_bytes() for path in RUN.rglob("*.safetensors")}
    again = rs_cache("train", "--config", "train.yaml")
    assert again.code == 0, again.err
    assert again.out == f"The head in {RUN} was trained already (6 steps).\n"
    assert {path: path.read_bytes() for path in RUN.rglob("*.safetensors")} == before


def test_a_run_continues_where_it_stopped_with_the_same_result(
    extracted: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipeline.train

    real = pipeline.train._show

    def stops_at_four(ticker: object, step) -> None:
        real(ticker, step)
        if step.step == 4:
            raise KeyboardInterrupt

    every = ("--set", "training.log_every=1", "--set", "training.checkpoint_seconds=0")
    monkeypatch.setattr("pipeline.train._show", stops_at_four)
    ran = rs_cache("train", "--config", "train.yaml", *every)
    assert ran.code == 130
    monkeypatch.setattr("pipeline.train._show", real)
    ran = rs_cache("train", "--config", "train.yaml", *every, "--json")
    assert ran.code == 0, ran.err
    assert 3 <= ran.json["resumed_from"] < 6
    model = RUN / "model.safetensors"
    assert model.read_bytes() == (finished / model).read_bytes()


@pytest.mark.parametrize(
    ("options", "code", "found"),
    [
        (("--cache", "nowhere"), 1, "nowhere"),
        (("--set", "backbone=other.yaml"), 4, "weights_sha256"),
        (("--set", "training.batch_size=0"), 2, "batch_size"),
        (("--set", "training.head.num_heds=4"), 2, "training.head.num_heds"),
        (("--set", "prompts.templates=none"), 2, "none"),
        (("--set", "position=prompt"), 1, "prompt"),
        (("--cache", f"{CACHES}/shapes-train-small", "--cache", f"{CACHES}/shapes-train-small"), 2, "caches"),
        (("--config", "absent.yaml"), 2, "--config is given 2 times"),
        (("--out", "small.yaml/run"), 1, "small.yaml"),
    ],
)
def test_what_cannot_be_trained(options: tuple[str, ...], code: int, found: str, extracted: Path) -> None:
    ran = rs_cache("train", "--config", "train.yaml", *options)
    assert ran.code == code, ran.err
    assert found in ran.error["error"]
    assert ran.error.get("expected") or ran.error.get("next")


def test_a_cache_that_is_not_finished_is_refused(extracted: Path) -> None:
    (CACHES / "shapes-train-small/manifest.json").unlink()
    ran = rs_cache("train", "--config", "train.yaml")
    assert ran.code == 3
    assert "rs-cache extract" in ran.error["next"]


def test_other_settings_in_the_same_folder_are_refused(extracted: Path) -> None:
    assert rs_cache("train", "--config", "train.yaml").code == 0
    ran = rs_cache("train", "--config", "train.yaml", "--set", "training.seed=1")
    assert ran.code == 4, ran.err
    assert "seed" in ran.error["error"]
