"""What several folders of tests share: a small drawn world, small random networks, a trained head."""

import atexit
import gc
import os
import shutil
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

from tests.running import rs_cache

# The same examples in every run, and no failure because another program had the processor.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

BACKBONE = """\
name: small
parts:
  sam: {network: sam, model: packaged, weights: "random:1", precision: fp32}
  clip: {network: clip, model: packaged, weights: "random:2", precision: fp32}
proposer: {model: packaged, weights: "random:3", top_n: 20}
"""
EVERYTHING_OF_SAM = BACKBONE.replace("name: small", "name: everything").replace(
    'weights: "random:1"', 'weights: "random:1", store: [transformer, prompt, mlp, embedding]'
)
OTHER_CLIP = BACKBONE.replace("small", "other").replace("random:2", "random:9")
TRAINING = """\
caches: [rs-cache-data/caches/shapes-train-small]
out: rs-cache-data/runs/small
backbone: small.yaml
prompts: {templates: single}
training:
  batch_size: 4
  precision: fp32
  head: {depth: 2, num_heads: 4, ffn_dim: 64}
  stages:
    - {name: shapes, steps: 6, learning_rate: 1.0e-3, schedule: cosine, warmup_steps: 2}
"""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported stays: a collector that walks it again and again takes a quarter of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # or libraries report at exit what they think leaked


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("RS_SLOW") == "1":
        return
    skip = pytest.mark.skip(reason="slow: RS_SLOW=1 runs it")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 8 validation images of the built-in world. Tests must not change it."""
    from regionspot_cache.datasets.shapes import materialise

    root = tmp_path_factory.mktemp("world") / "shapes"
    materialise(root, train=24, val=8, processes=1)
    return root


def fill_workplace(place: Path, world: Path) -> Path:
    """A folder to run commands in, with the world where the command line looks for it."""
    shutil.copytree(world, place / "rs-cache-data" / "datasets" / "shapes")
    (place / "small.yaml").write_text(BACKBONE)
    (place / "other.yaml").write_text(OTHER_CLIP)
    (place / "everything.yaml").write_text(EVERYTHING_OF_SAM)
    (place / "train.yaml").write_text(TRAINING)
    return place


@pytest.fixture
def workplace(tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a world of its own and nothing else."""
    monkeypatch.chdir(fill_workplace(tmp_path, world))
    return tmp_path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Path:
    """A workplace after `extract` of both splits and `train`. Tests must not change it."""
    place = fill_workplace(tmp_path_factory.mktemp("finished"), world)
    small = ("--backbone", "small.yaml", "--set", "partition_size=4")
    for arguments in (
        ("extract", *small),
        ("extract", "--dataset", "shapes:val", *small),
        ("train", "--config", "train.yaml"),
    ):
        ran = rs_cache(*arguments, cwd=place)
        assert ran.code == 0, ran.err
    return place


@pytest.fixture(scope="session")
def small_backbone(finished: Path):
    """The loaded networks of `finished`."""
    from regionspot_cache.backbones import load_backbone, load_preset

    return load_backbone(load_preset(finished / "small.yaml"))
