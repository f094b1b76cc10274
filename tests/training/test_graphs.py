"""Steps on fixed buffers: the same training, whatever does the buffers' work again."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from regionspot_cache.training import train
from regionspot_cache.training.distributed import ProcessGroup
from regionspot_cache.training.graphs import StageSteps, Work, why_not
from regionspot_cache.training.loader import Batch, SourceReader, make_batch, room_for
from regionspot_cache.training.setup import RunData, initial_head, memory_limit
from regionspot_cache.training.step import HeadStep
from tests.training.fake import FakeCache, make_config, make_source
from tests.training.test_loop import InterruptedRunError, assert_equal_runs, interrupt_at, losses, weights

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class Recorded:
    """Does what was captured again, and writes all results into the same place, as a CUDA graph does."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0
        self.inside = False

    @contextmanager
    def lane(self) -> Iterator[None]:
        self.inside = True
        yield
        self.inside = False

    def capture(self, work: Work) -> Work:
        assert self.inside
        self.captured += 1
        output = torch.empty(2)

        def replay() -> Tensor:
            assert self.inside
            self.replayed += 1
            return output.copy_(work())

        return replay


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """Graphs in all runs of a test, on the CPU."""
    found = Recorded()
    monkeypatch.setattr("regionspot_cache.training.loop.why_not", lambda *_: None)
    monkeypatch.setattr("regionspot_cache.training.loop.CudaGraphs", lambda _: found)
    return found


def batch_of(images: list[int], *, source: int = 0, load: bool = False) -> Batch:
    reader = SourceReader(make_source(), np.arange(24))
    if load:
        reader.load(CPU)
    chosen = np.array(images)
    return make_batch(0, source, reader, chosen, len(images), pin=False, fixed=True)


def test_widths_are_few_and_none_is_below() -> None:
    widths = [room_for(boxes) for boxes in range(1, 257)]
    assert sorted(set(widths)) == [4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    assert all(boxes <= width < 1.5 * max(boxes, 4) for boxes, width in enumerate(widths, 1))


def test_a_batch_of_fixed_shapes_has_the_same_boxes_and_others_of_no_weight() -> None:
    cache = FakeCache()
    reader, images = SourceReader(make_source(cache=cache), np.arange(24)), np.array([3, 5])
    usual = make_batch(0, 0, reader, images, 2, pin=False)
    fixed = make_batch(0, 0, reader, images, 2, pin=False, fixed=True)
    count, width = len(usual.places), fixed.tokens.shape[1]
    assert width == room_for(usual.tokens.shape[1])
    assert fixed.places.sort().values.tolist() == list(range(2 * width))
    assert fixed.real.flatten()[fixed.places].tolist() == [True] * count + [False] * (2 * width - count)
    for batch in (usual, fixed):
        tokens = batch.tokens.flatten(0, 1)[batch.places][:count]
        assert np.array_equal(tokens, np.concatenate([cache.tokens[i] for i in images]))
    for name in ("labels", "weights"):
        assert torch.equal(getattr(fixed, name)[:count], getattr(usual, name))
        assert not getattr(fixed, name)[count:].any()


@pytest.mark.parametrize("load", [False, True])
def test_every_shape_has_buffers_of_its_own_and_is_captured_once(load: bool) -> None:
    seen: list[Batch] = []

    def step(batch: Batch) -> Tensor:
        seen.append(batch)
        return torch.stack([batch.tokens.sum(), batch.feature_map().sum()])

    recorder = Recorded()
    run = StageSteps(step, [True, True], CPU, recorder)
    batches = [batch_of([image, 7], load=load) for image in range(6)]
    batches.append(replace(batches[0], source=1))
    batches.append(batch_of([1, 2, 3], load=load))
    outputs = [run(batch) for batch in batches]
    for output, batch in zip(outputs, batches, strict=True):  # none was overwritten by a later one
        assert torch.equal(output, torch.stack([batch.tokens.sum(), batch.feature_map().sum()]))
    assert len({id(batch) for batch in seen}) == 3
    assert (recorder.captured, recorder.replayed) == (1, 5)
    assert (seen[0].maps is batches[0].maps) == load  # what lies on the device is not copied


def test_sources_without_fixed_shapes_are_worked_on_as_they_come() -> None:
    seen: list[Batch] = []
    recorder = Recorded()
    run = StageSteps(lambda batch: seen.append(batch) or torch.zeros(2), [False], CPU, recorder)
    batch = batch_of([1, 2])
    run(batch), run(batch)
    assert not run.fixes(0)
    assert recorder.captured == 0
    assert all(one.tokens is batch.tokens for one in seen)


def test_a_run_on_fixed_buffers_is_the_same_training(
    tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [make_source("a"), make_source("b", FakeCache(seed=1, classes=3, dtype="int4"))]
    config = make_config(20, log_every=1)
    config = replace(config, head=replace(config.head, dropout=0.0))
    train(sources, config, tmp_path / "graphs")
    assert recorded.captured == 2
    assert recorded.replayed == 18
    monkeypatch.undo()
    train(sources, config, tmp_path / "usual")
    for name, value in weights(tmp_path / "usual").items():
        torch.testing.assert_close(weights(tmp_path / "graphs")[name], value, atol=1e-6, rtol=0, msg=name)
    np.testing.assert_allclose(losses(tmp_path / "graphs"), losses(tmp_path / "usual"), rtol=1e-5)


def test_a_resumed_run_on_fixed_buffers_equals_an_undisturbed_one(tmp_path: Path, recorded: Recorded) -> None:
    start = tmp_path / "start"
    train([make_source()], make_config(2), start)
    known = make_source().text_embeddings
    how = {"init_from": str(start), "towards_initial": 30.0, "distillation": 1.0}
    config, source = make_config(8, log_every=2, **how), make_source(known=known)
    train([source], config, tmp_path / "whole")
    streamed = replace(config, memory_bytes=0)
    often = replace(streamed, checkpoint_seconds=0.0)
    with pytest.raises(InterruptedRunError):
        train([source], often, tmp_path / "parts", on_step=interrupt_at(4))
    train([source], streamed, tmp_path / "parts")
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    assert recorded.replayed


class NoLooking(TorchDispatchMode):
    """Fails where an operation needs to know values, which a CUDA graph forbids."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        asks = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
        assert not asks, f"{func} needs the values of its arguments"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("changes", [{}, {"loss": "softmax", "precision": "bf16"}])
def test_a_step_never_looks_at_values(tmp_path: Path, changes: dict[str, str]) -> None:
    train([make_source()], make_config(1), tmp_path)
    how = {"init_from": str(tmp_path), "towards_initial": 30.0, "distillation": 1.0}
    config = make_config(**how, **changes)
    source = make_source(known=make_source().text_embeddings, ignore=~np.eye(4, dtype=bool))
    data = RunData.prepare([source], config, CPU).stage(0, CPU)
    step = HeadStep(initial_head([source], config).train(), config, CPU, ProcessGroup())
    images = np.array([1, 2, 3, 4])
    batch = make_batch(0, 0, data.readers[0], images, 4, pin=False, fixed=True)
    with NoLooking():
        output = step(batch, data)
        with pytest.raises(AssertionError, match="needs the values"):
            batch.places.nonzero()
    assert output.isfinite().all()


def test_the_reason_for_no_graphs_is_said() -> None:
    alone, config = ProcessGroup(), make_config()
    assert why_not(CUDA, alone, config) is None
    assert why_not(CUDA, ProcessGroup(world=2), config) == "several processes"
    assert why_not(CUDA, alone, replace(config, graphs=False)) == "training.graphs is false"
    assert why_not(CPU, alone, config) == "not on cpu"


def test_where_maps_lie_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    caches = [FakeCache(num_images=5, seed=1), FakeCache(num_images=24)]
    sources = [make_source("small", caches[0]), make_source("large", caches[1])]
    room = sources[0].map_bytes * 5 + sources[0].query_bytes
    train(sources, make_config(1, memory_bytes=room), tmp_path, on_note=said.append)
    assert said == [
        "maps of small: in memory, cpu",
        "maps of large: read from the cache in every epoch",
    ]
    assert len(caches[0].reads) == 5


def test_of_a_gpu_maps_take_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    limits = [memory_limit(make_config(memory_bytes=given), CUDA) for given in (None, 100, 900)]
    assert limits == [600, 100, 600]
    assert [memory_limit(make_config(memory_bytes=given), CPU) for given in (None, 9000)] == [4 * 2**30, 9000]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs_are_the_same_training(tmp_path: Path) -> None:
    config = make_config(20, log_every=1)
    config = replace(config, head=replace(config.head, dropout=0.0))
    for name, how in {"graphs": {}, "eager": {"graphs": False}, "streamed": {"memory_bytes": 0}}.items():
        train([make_source()], replace(config, **how), tmp_path / name, device="cuda")
    assert_equal_runs(tmp_path / "graphs", tmp_path / "streamed")
    for name, value in weights(tmp_path / "eager").items():
        torch.testing.assert_close(weights(tmp_path / "graphs")[name], value, atol=1e-5, rtol=0, msg=name)
