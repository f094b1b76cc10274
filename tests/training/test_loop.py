"""Runs: they learn, resume exactly, refuse what does not fit, and name what went wrong."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from regionspot_cache.backbones.presets import HeadInputs
from regionspot_cache.errors import DamageError, IdentityError, InputError, RegionSpotError, UsageError
from regionspot_cache.training import Stage, StepReport, TrainConfig, TrainingSource, train
from regionspot_cache.training.head import RegionHead, read_model_config
from regionspot_cache.training.head_config import HeadOptions
from tests.training.fake import MAP, QUERY, FakeCache, make_config, make_source
from tests.training.run_fake import config_of

ROOT = Path(__file__).parents[2]


class InterruptedRunError(Exception):
    """Raised in the middle of a run."""


def interrupt_at(step: int):
    def on_step(report: StepReport) -> None:
        if report.step >= step:
            raise InterruptedRunError

    return on_step


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def assert_equal_runs(a: Path, b: Path) -> None:
    for name, value in weights(a).items():
        assert torch.equal(value, weights(b)[name]), name
    assert losses(a) == losses(b)


def losses(folder: Path) -> list[tuple[int, float, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(v["step"], v["loss"], v["gradient_norm"]) for v in map(json.loads, lines)]


def learnable_source() -> TrainingSource:
    """Tokens that say their label."""
    cache = FakeCache(num_images=20)
    for image in range(20):
        cache.tokens[image] = np.eye(6, dtype=np.float32)[cache.labels(image)] * 3
    return make_source(cache=cache)


def test_a_run_learns_and_leaves_a_loadable_head(tmp_path: Path) -> None:
    source = learnable_source()
    stage = Stage(steps=150, learning_rate=3e-3, warmup_steps=10, milestones=())
    reports: list[StepReport] = []
    config = make_config(stages=(stage,), head=HeadOptions(depth=1, num_heads=2, ffn_dim=16, dropout=0.0))
    result = train([source], config, tmp_path, on_step=reports.append)
    assert (result.steps, result.resumed_from) == (150, 0)
    assert reports[-1].loss < 0.1 * reports[0].loss
    assert [r.step for r in reports] == list(range(5, 151, 5))
    assert all(r.steps_per_second > 0 and 0 <= r.waiting <= 1 for r in reports)
    assert reports[-1].seconds_left == 0
    head = RegionHead.from_pretrained(tmp_path)
    cache, correct = source.cache, 0
    for image in range(20):
        maps, scales = cache.raw_images(MAP, [image])
        feature_map = torch.from_numpy(maps).float() * torch.from_numpy(scales).float()[..., None]
        logits = head.logits(
            head(torch.from_numpy(cache.queries(QUERY, image))[None], feature_map),
            torch.from_numpy(source.text_embeddings),
        )
        correct += (logits[0].argmax(-1).numpy() == cache.labels(image)).sum()
    assert correct > 0.9 * cache.counts.sum()
    config = read_model_config(tmp_path)
    assert config["networks"] == {"sam": {"model": "sam tiny"}, "clip": {"model": "clip tiny"}}
    assert config["inputs"] == {"query": "sam/transformer", "memory": ["clip/map"]}
    assert config["text"] == {"templates": "single"}
    assert config["library_version"]


@pytest.mark.parametrize("stop", [3, 7, 10])
def test_a_resumed_run_equals_an_undisturbed_one(tmp_path: Path, stop: int) -> None:
    sources = [make_source("a"), make_source("b", FakeCache(seed=1, classes=3, num_images=9))]
    stages = (
        Stage(name="one", steps=6, learning_rate=3e-3, warmup_steps=3, sources=("a",)),
        Stage(name="two", steps=7, learning_rate=1e-3, warmup_steps=0, schedule="cosine"),
    )
    config = make_config(stages=stages, checkpoint_seconds=0.0, log_every=3)
    train(sources, config, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        train(sources, config, tmp_path / "parts", on_step=interrupt_at(stop))
    result = train(sources, config, tmp_path / "parts")
    assert 0 < result.resumed_from < 13
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    # Reading from memory or from the cache, with other thread counts, is the same run too.
    other = dataclasses.replace(config, memory_bytes=0, reader_threads=1, batches_ahead=1)
    train(sources, other, tmp_path / "other")
    assert_equal_runs(tmp_path / "whole", tmp_path / "other")


def test_a_killed_process_resumes_to_the_same_weights(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    arguments = [sys.executable, "-m", "tests.training.run_fake", str(killed), "40", "0.2", "0.05"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment)
    checkpoints = killed / "checkpoints"
    while not list(checkpoints.glob("step-00000001*")):  # somewhere in the middle
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        config = config_of(40, 0.2)
        result = train([make_source()], config, killed)
        train([make_source()], config, whole)
    finally:
        torch.set_num_threads(threads)
    assert 10 <= result.resumed_from < 40
    assert_equal_runs(whole, killed)
    assert not list(checkpoints.glob(".draft-*"))


def test_two_processes_train_the_same_head_as_one(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = ["-m", "tests.training.run_fake", str(tmp_path / "two"), "12", "0.0", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, *arguments], cwd=ROOT, env=environment, check=True)
    train([make_source()], config_of(12, 0.0), tmp_path / "one")
    for name, value in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], value, atol=1e-6, rtol=0, msg=name)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    train([make_source()], make_config(), tmp_path)
    before = weights(tmp_path)
    reports: list[StepReport] = []
    assert train([make_source()], make_config(), tmp_path, on_step=reports.append).resumed_from == 12
    assert not reports
    assert all(torch.equal(value, before[name]) for name, value in weights(tmp_path).items())


def other_text() -> TrainingSource:
    source = make_source()
    return dataclasses.replace(source, text_embeddings=source.text_embeddings[::-1])


@pytest.mark.parametrize(
    ("source", "config", "key"),
    [
        (make_source(), make_config(weight_decay=0.5), r"config\.weight_decay"),
        (make_source(), make_config(13), r"config\.stages"),
        (make_source(cache=FakeCache(backbone="bl")), make_config(), r"sources\.fake\.networks\.sam\.model"),
        (make_source(cache=FakeCache(seed=5)), make_config(), r"sources\.fake\.annotations"),
        (make_source(class_names=("x", "y", "z", "w")), make_config(), r"sources\.fake\.class_names_sha256"),
        (other_text(), make_config(), r"sources\.fake\.text_sha256"),
        (make_source(text_identity={"templates": "80"}), make_config(), r"sources\.fake\.text\.templates"),
    ],
)
def test_resuming_something_else_is_refused(
    tmp_path: Path, source: TrainingSource, config: TrainConfig, key: str
) -> None:
    with pytest.raises(InterruptedRunError):
        train([make_source()], make_config(checkpoint_seconds=0.0), tmp_path, on_step=interrupt_at(5))
    with pytest.raises(IdentityError, match=key):
        train([source], config, tmp_path)


def test_settings_of_speed_may_change_on_resume(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train([make_source()], make_config(checkpoint_seconds=0.0), tmp_path, on_step=interrupt_at(5))
    assert train([make_source()], make_config(log_every=1, keep_checkpoints=5), tmp_path).resumed_from == 4


def test_a_loss_that_is_not_finite_names_step_and_checkpoint(tmp_path: Path) -> None:
    cache = FakeCache(num_images=4)
    config = make_config(batch_size=1, checkpoint_seconds=0.0, log_every=1)

    def poison(report: StepReport) -> None:
        if report.step == 3:
            for tokens in cache.tokens:
                tokens[:] = np.nan

    slow = dataclasses.replace(config, memory_bytes=0, batches_ahead=1, reader_threads=1)
    with pytest.raises(RegionSpotError, match=r"step [45]: the loss is nan .*step-00000000[34]"):
        train([make_source(cache=cache)], slow, tmp_path, on_step=poison)
    newest = max((tmp_path / "checkpoints").glob("step-*"))
    assert all(torch.isfinite(value).all() for value in weights(newest).values())


def test_errors_of_the_cache_end_the_run_and_its_threads(tmp_path: Path) -> None:
    cache = FakeCache(unreadable=frozenset({5}))
    with pytest.raises(InputError, match=r"fake: .*image 5"):
        train([make_source(cache=cache)], make_config(memory_bytes=0), tmp_path)
    assert not [t for t in threading.enumerate() if t.name.startswith("batch-reader")]


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        train([make_source()], make_config(), tmp_path / "file" / "out")
    with pytest.raises(InputError, match="another run"):
        train(
            [make_source()],
            make_config(),
            tmp_path / "out",
            on_step=lambda report: train([make_source()], make_config(), tmp_path / "out"),
        )


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train([make_source()], make_config(checkpoint_seconds=0.0), tmp_path, on_step=interrupt_at(5))
    newest = max((tmp_path / "checkpoints").glob("step-*"))
    data = bytearray((newest / "optimizer.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "optimizer.safetensors").write_bytes(data)
    with pytest.raises(DamageError, match=r"optimizer\.safetensors"):
        train([make_source()], make_config(), tmp_path)
    (newest / "state.json").unlink()
    with pytest.raises(DamageError, match="not whole"):
        train([make_source()], make_config(), tmp_path)


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    train([make_source()], make_config(checkpoint_seconds=0.0, keep_checkpoints=3), tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000000010", "step-000000011", "step-000000012"]
    RegionHead.from_pretrained(tmp_path / "checkpoints" / names[0])


def test_a_full_disk_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(InputError, match="cannot write the checkpoint"):
        train([make_source()], make_config(), tmp_path)


def test_images_left_out_are_counted(tmp_path: Path) -> None:
    cache = FakeCache(empty=frozenset({1}), bad={"sam": {2, 3}})
    result = train([make_source(cache=cache)], make_config(), tmp_path)
    assert result.left_out == {"fake": {"without boxes": 1, "without sam": 2}}


def test_ignored_classes_are_left_out_of_the_loss(tmp_path: Path) -> None:
    everything_but_own = ~np.eye(4, dtype=bool)
    for name, ignore in (("all", None), ("own", everything_but_own)):
        train([make_source(ignore=ignore)], make_config(1, log_every=1), tmp_path / name)
    assert losses(tmp_path / "own")[0][1] < losses(tmp_path / "all")[0][1]


def test_bfloat16_autocast_trains_on_the_cpu(tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        train([make_source()], make_config(precision=precision), tmp_path / precision)
    exact, coarse = losses(tmp_path / "fp32"), losses(tmp_path / "bf16")
    assert exact != coarse
    assert coarse[0][1] == pytest.approx(exact[0][1], rel=0.05)


def test_the_callers_random_state_is_untouched(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train([make_source()], make_config(), tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_configs_and_sources_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="batch_size"):
        TrainConfig(batch_size=0)
    with pytest.raises(UsageError, match="steps"):
        TrainConfig(stages=())
    with pytest.raises(InputError, match="class map"):
        make_source(class_map=np.array([0, 1, 2, 4]))
    with pytest.raises(InputError, match="3 class names"):
        make_source(class_names=("a", "b", "c"))
    with pytest.raises(InputError, match="sam/mlp"):
        make_source(inputs=HeadInputs(query="sam/mlp"))
    with pytest.raises(InputError, match=r"a query clip/map \[5, 8\]"):
        make_source(inputs=HeadInputs(query="clip/map"))
    with pytest.raises(InputError, match=r"a memory of sam/transformer int8 \[6\]"):
        make_source(inputs=HeadInputs(memory=("sam/transformer",)))
    for grid, sizes in {(2, 2): (1, 2, 2), (1, 5): (0, 1, 5), (1, 1): (4, 1, 1), None: (0, 1, 5)}.items():
        assert make_source(cache=FakeCache(grid=grid)).head_sizes()["maps"] == (sizes,)


def test_stages_name_known_sources(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no cache coco"):
        train([make_source()], make_config(stages=(Stage(sources=("coco",)),)), tmp_path)
    with pytest.raises(UsageError, match="two caches"):
        train([make_source(), make_source()], make_config(), tmp_path)
    with pytest.raises(InputError, match="no cache to train on"):
        train([], make_config(), tmp_path)


def test_the_arithmetic_that_was_chosen_is_the_runs_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of "auto" on a processor without bfloat16 goes on as float32 where "auto" would be bfloat16."""
    config = make_config(precision="auto", checkpoint_seconds=0.0)
    monkeypatch.setattr("regionspot_cache.backbones.arithmetic._cpu_multiplies_bf16", lambda: False)
    with pytest.raises(InterruptedRunError):
        train([make_source()], config, tmp_path, on_step=interrupt_at(5))
    monkeypatch.setattr("regionspot_cache.backbones.arithmetic._cpu_multiplies_bf16", lambda: True)
    with pytest.raises(IdentityError, match=r"config\.precision = 'fp32'"):
        train([make_source()], config, tmp_path)
    train([make_source()], make_config(precision="fp32"), tmp_path)
    assert read_model_config(tmp_path)["precision"] == "fp32"
