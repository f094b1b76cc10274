"""Model folders that others wrote: every wrong file is one clear error, before anything is allocated."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from regionspot_cache.errors import IdentityError, InputError, MissingFileError
from regionspot_cache.models.folder import read_model_config
from regionspot_cache.recognition.predictor import check_origin
from regionspot_cache.training.head import HeadConfig, RegionHead

CONFIG = HeadConfig(token_dim=6, map_dim=8, text_dim=5, maps=((1, 2, 2),), depth=1, num_heads=2, ffn_dim=4)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    RegionHead(CONFIG).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "changes",
    [
        {"maps": "ab"},
        {"maps": []},
        {"maps": [[0, 0, 0]]},
        {"maps": [[1, 2]]},
        {"maps": [1, 2, 3]},
        {"maps": [[1, 2, 2], [-1, 2, 2]]},
        {"depth": "two"},
        {"depth": 0},
        {"depth": 10**9},
        {"num_heads": 0},
        {"map_dim": 1.5},
        {"map_dim": 10**12},
        {"dropout": 9},
        {"logit_scale": float("nan")},
    ],
)
def test_options_that_make_no_head(changes: dict[str, Any], model: Path) -> None:
    (model / "config.json").write_text(json.dumps({"head": CONFIG.to_dict() | changes}))
    with pytest.raises(InputError) as caught:
        RegionHead.from_pretrained(model)
    assert caught.value.expected
    assert caught.value.remedy


def test_sizes_that_the_tensors_do_not_have_are_never_allocated(model: Path) -> None:
    large = CONFIG.to_dict() | {"token_dim": 65536, "map_dim": 65536, "depth": 200}
    (model / "config.json").write_text(json.dumps({"head": large}))
    with pytest.raises(IdentityError, match=r"decoder\.layers\.0"):
        RegionHead.from_pretrained(model)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"head": [1]}', b'{"head": null}', b"\xff", b"[" * 100_000]
)
def test_configs_that_are_none(content: bytes, model: Path) -> None:
    (model / "config.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_model_config(model)
    assert caught.value.expected


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_where_a_file_goes(name: str, model: Path) -> None:
    (model / name).unlink()
    (model / name).mkdir()
    with pytest.raises(MissingFileError, match=name):
        RegionHead.from_pretrained(model)


@pytest.mark.parametrize("change", [lambda t: t * float("nan"), lambda t: t.to(torch.int32)])
def test_weights_that_are_no_numbers(change: Callable[[torch.Tensor], torch.Tensor], model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["to_clip.bias"] = change(tensors["to_clip.bias"])
    save_file(tensors, model / "model.safetensors")
    with pytest.raises(InputError, match=r"to_clip\.bias has values that are not finite"):
        RegionHead.from_pretrained(model)


def test_weights_that_are_not_whole(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read as weights") as caught:
        RegionHead.from_pretrained(model)
    assert caught.value.expected


ORIGIN: dict[str, Any] = {
    "networks": {"sam": {}, "clip": {}},
    "inputs": {"query": "sam/mlp", "memory": ["clip/map"]},
    "text": {"templates": "single", "cleaning": "raw", "average": "raw-mean"},
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("networks", None),
        ("networks", [1]),
        ("networks", {"sam": [1]}),
        ("inputs", None),
        ("inputs", 5),
        ("inputs", {"query": 5, "memory": ["clip/map"]}),
        ("inputs", {"query": "sam/mlp", "memory": "clip/map"}),
        ("inputs", {"query": "sam/mlp", "memory": []}),
        ("inputs", {"query": "sam/mlp", "memory": [1]}),
        ("text", [1]),
        ("text", {"templates": [1], "cleaning": "raw", "average": "raw-mean"}),
        ("text", {"templates": "single"}),
    ],
)
def test_a_config_that_does_not_say_what_the_head_was_trained_on(key: str, value: Any) -> None:
    check_origin(ORIGIN, "model")
    check_origin(ORIGIN | {"text": ORIGIN["text"] | {"templates": ["a {}.", "{}."]}}, "model")
    with pytest.raises(InputError, match=f"trained on: {key}\n"):
        check_origin({name: v for name, v in (ORIGIN | {key: value}).items() if v is not None}, "model")
