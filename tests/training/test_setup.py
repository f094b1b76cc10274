"""What a run begins with: sources that fit each other, and the weights of another head."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from regionspot_cache.errors import IdentityError
from regionspot_cache.training import Stage, train
from regionspot_cache.training.head import read_model_config
from regionspot_cache.training.head_config import HeadOptions
from tests.training.fake import FakeCache, make_config, make_source


def test_sources_of_different_backbones_do_not_mix(tmp_path: Path) -> None:
    sources = [make_source("a"), make_source("b", FakeCache(backbone="bl"))]
    with pytest.raises(IdentityError, match=r"b was made with networks\.sam\.model = 'sam bl'"):
        train(sources, make_config(), tmp_path)


def test_a_run_starts_from_another_heads_weights(tmp_path: Path) -> None:
    train([make_source()], make_config(), tmp_path / "first")
    nothing = Stage(steps=1, learning_rate=0.0)
    config = make_config(stages=(nothing,), init_from=str(tmp_path / "first"))
    train([make_source()], config, tmp_path / "second")
    first, second = (load_file(tmp_path / run / "model.safetensors") for run in ("first", "second"))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name])


def test_weights_of_another_size_or_backbone_are_refused(tmp_path: Path) -> None:
    train([make_source()], make_config(), tmp_path / "first")
    start = str(tmp_path / "first")
    wide = make_config(init_from=start, head=HeadOptions(depth=2, num_heads=2, ffn_dim=32))
    with pytest.raises(IdentityError, match="ffn_dim"):
        train([make_source()], wide, tmp_path / "wide")
    with pytest.raises(IdentityError, match=r"networks\.sam\.model"):
        train([make_source(cache=FakeCache(backbone="bl"))], make_config(init_from=start), tmp_path / "bl")


def test_features_of_another_arithmetic_mix_and_go_on(tmp_path: Path) -> None:
    other = FakeCache(seed=1, precision="bf16")
    train([make_source("a"), make_source("b", cache=other)], make_config(), tmp_path / "first")
    start = tmp_path / "first"
    config = read_model_config(start)
    assert config["networks"] == {"sam": {"model": "sam tiny"}, "clip": {"model": "clip tiny"}}
    config["networks"]["clip"]["precision"] = "fp32"  # as an imported head has it
    (start / "config.json").write_text(json.dumps(config))
    train([make_source(cache=other)], make_config(init_from=str(start)), tmp_path / "second")
