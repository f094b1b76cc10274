"""How the built-in networks were trained: a few steps of each part end in a checkpoint and in weights."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from regionspot_cache.backbones.assets import FOLDER
from regionspot_cache.datasets.shapes import World
from tools.tiny import clip, rpn, sam
from tools.tiny.__main__ import PARTS, main
from tools.tiny.clip_data import learn_merges
from tools.tiny.training import Stage, fit, learning_rate

TWO_STEPS = (Stage(2, 1e-3),)


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    folder = tmp_path / "assets"
    folder.mkdir()
    for name in ("config.json", "sam.safetensors"):
        shutil.copy(FOLDER / name, folder)
    return folder


@pytest.mark.parametrize("part", ["sam", "clip", "rpn"])
def test_a_few_steps(part: str, assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {
        "sam": lambda: sam.train(tmp_path, assets, TWO_STEPS, scenes=1),
        "clip": lambda: clip.train(tmp_path, assets, TWO_STEPS),
        "rpn": lambda: rpn.train(tmp_path, assets, TWO_STEPS, World(train=3, val=2)),
    }
    phase = clip.PHASES[0]._replace(pieces=4, photos=4, scenes=2, phrases=8)
    monkeypatch.setattr(clip, "PHASES", (phase,))
    torch.manual_seed(0)
    small[part]()
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 2
    shipped = load_file(FOLDER / f"{part}.safetensors")
    trained = load_file(assets / f"{part}.safetensors")
    assert {key: (t.dtype, t.shape) for key, t in trained.items()} == {
        key: (t.dtype, t.shape) for key, t in shipped.items()
    }
    assert all(t.isfinite().all() for t in trained.values())
    measured = json.loads((assets / "config.json").read_text())["measured"][part]
    assert (measured["steps"], measured["images_seen"]) == (2, {"sam": 16, "clip": 6, "rpn": 16}[part])


def test_a_resumed_run_equals_an_undisturbed_one(tmp_path: Path) -> None:
    def run(folder: Path, steps: int) -> torch.Tensor:
        folder.mkdir(exist_ok=True)
        torch.manual_seed(7)
        layer = nn.Linear(4, 1)
        stages = [Stage(steps, 0.1, warmup=2, horizon=9)]
        fit(layer, stages, lambda _: layer(torch.rand(3, 4)).sum(), folder)
        return layer.weight

    run(tmp_path / "cut", 2)
    assert torch.equal(run(tmp_path / "cut", 5), run(tmp_path / "whole", 5))


def test_stages_warm_up_and_decay_and_may_end_before_their_horizon() -> None:
    stages = (Stage(50, 1.0, warmup=10, horizon=100), Stage(20, 0.5, warmup=0))
    rates = [learning_rate(stages, step) for step in range(70)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(1.0)
    assert rates[49] == pytest.approx(0.01 + 0.495 * (1 + math.cos(math.pi * 39 / 90)))
    assert rates[50] == pytest.approx(0.5)
    assert rates[69] < 0.02
    assert (np.diff(rates[:10]) > 0).all()


def test_merges_join_frequent_pairs_first() -> None:
    assert learn_merges(["ab ab ab cd"]) == [("a", "b</w>"), ("c", "d</w>")]


def test_an_unknown_part_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tiny", "sma"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert ", ".join(PARTS) in capsys.readouterr().err
