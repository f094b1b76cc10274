"""What keeps a head near the head that it began as."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from regionspot_cache.errors import IdentityError, UsageError
from regionspot_cache.training import Stage, TrainingSource, train
from regionspot_cache.training.anchor import Anchor
from regionspot_cache.training.head import RegionHead
from regionspot_cache.training.loader import SourceReader, make_batch
from tests.training.fake import TEXT_DIM, FakeCache, make_config, make_source

FREE = {"dropout": 0.0}


@pytest.fixture(scope="module")
def initial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("initial")
    config = make_config()
    train([make_source()], replace(config, head=replace(config.head, **FREE)), folder)
    return folder


def going_on(initial: Path, out: Path, source: TrainingSource, **how: float) -> RegionHead:
    config = make_config(stages=(Stage(steps=25, learning_rate=3e-3, warmup_steps=0, schedule="constant"),))
    config = replace(config, head=replace(config.head, **FREE), init_from=str(initial), **how)
    train([source], config, out)
    return RegionHead.from_pretrained(out)


def moved(head: RegionHead, initial: Path) -> float:
    """The farthest that a weight went."""
    before = load_file(initial / "model.safetensors")
    return max(float((value - before[name]).abs().max()) for name, value in head.state_dict().items())


def test_weights_stay_within_the_inverse_of_the_pull(initial: Path, tmp_path: Path) -> None:
    new = make_source("new", FakeCache(seed=7))
    free = moved(going_on(initial, tmp_path / "free", new), initial)
    drawn = moved(going_on(initial, tmp_path / "drawn", new, towards_initial=100.0), initial)
    assert free > 0.03
    assert 0 < drawn <= 1.5 / 100


def test_a_pull_of_the_whole_way_is_the_initial_head() -> None:
    model = torch.nn.Linear(3, 2)
    before = model.weight.detach().clone()
    anchor = Anchor(model, 100.0)
    with torch.no_grad():
        model.weight += 1
    anchor.pull(torch.tensor(0.001))
    torch.testing.assert_close(model.weight.detach(), before + 0.9)
    anchor.pull(torch.tensor(1.0))
    torch.testing.assert_close(model.weight.detach(), before)


def said(head: RegionHead, source: TrainingSource, known: np.ndarray) -> torch.Tensor:
    images = np.arange(8)
    batch = make_batch(0, 0, SourceReader(source, images), images, 8, pin=False)
    with torch.inference_mode():
        real = head(batch.tokens, batch.feature_map(), batch.real).flatten(0, 1)[batch.places]
        return head.logits(real, torch.from_numpy(known)).softmax(-1)


def test_distillation_keeps_what_is_said_of_known_classes(initial: Path, tmp_path: Path) -> None:
    known = np.random.default_rng(3).normal(size=(5, TEXT_DIM)).astype(np.float32)
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    new = replace(make_source("new", FakeCache(seed=7)), known=known)
    before = said(RegionHead.from_pretrained(initial), new, known)
    free = said(going_on(initial, tmp_path / "free", new), new, known)
    kept = said(going_on(initial, tmp_path / "kept", new, distillation=10.0), new, known)
    assert (kept - before).abs().mean() < 0.5 * (free - before).abs().mean()


def test_a_run_that_is_held_resumes_to_the_same_weights(initial: Path, tmp_path: Path) -> None:
    new = replace(make_source("new", FakeCache(seed=7)), known=np.eye(4, TEXT_DIM, dtype=np.float32))
    stage = Stage(steps=8, learning_rate=3e-3, warmup_steps=0)
    config = make_config(stages=(stage,), checkpoint_seconds=0.0, log_every=1)
    config = replace(
        config,
        head=replace(config.head, **FREE),
        init_from=str(initial),
        towards_initial=30.0,
        distillation=1.0,
    )

    def stop(report) -> None:
        if report.step == 4:
            raise InterruptedError

    train([new], config, tmp_path / "whole")
    with pytest.raises(InterruptedError):
        train([new], config, tmp_path / "parts", on_step=stop)
    assert train([new], config, tmp_path / "parts").resumed_from > 0
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ({"towards_initial": 1.0}, "without an initial head"),
        ({"distillation": 1.0}, "without an initial head"),
        ({"distillation": 1.0, "init_from": "initial"}, "classes that the initial head knew"),
    ],
)
def test_nothing_to_stay_near(how: dict, found: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=found):
        train([make_source()], replace(make_config(), **how), tmp_path)


def test_a_head_of_other_options_is_refused_though_its_tensors_fit(initial: Path, tmp_path: Path) -> None:
    config = make_config()
    other = replace(config.head, map_norm=not config.head.map_norm, **FREE)
    with pytest.raises(IdentityError, match="map_norm") as error:
        train([make_source()], replace(config, head=other, init_from=str(initial)), tmp_path)
    assert "--set training.head.map_norm=" in error.value.remedy
