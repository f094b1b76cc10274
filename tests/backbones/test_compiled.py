"""Compiled image networks: the same features, one compilation, and a reason wherever there is none."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from regionspot_cache.backbones import compiled
from regionspot_cache.backbones.compiled import Compiled, choose_compiled, with_compiled
from regionspot_cache.errors import UsageError
from tests.backbones.small import picture, random_boxes, small_clip, small_regionclip, small_sam

SIZE = (50, 60)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Sizes that something is compiled for, by a stand-in for the compiler, which runs what torch traced."""
    found: list[int] = []

    def backend(graph: Any, inputs: list[Tensor]) -> Callable[..., Any]:
        found.append(next(len(value) for value in inputs if type(value) is Tensor))
        return graph.forward

    monkeypatch.setattr(compiled, "BACKEND", backend)
    yield found
    torch.compiler.reset()


def features(encoder: Any, count: int) -> list[Tensor]:
    batch = torch.stack([encoder.preprocess(picture(*SIZE, seed)) for seed in range(count)])
    found = encoder.encode(batch, [random_boxes(2, *SIZE)] * count, [SIZE] * count)
    return [value if isinstance(value, Tensor) else torch.cat(list(value)) for value in found.values()]


@pytest.mark.parametrize(
    "make",
    [lambda: small_clip(layers=(-1, 0), values=True, precision="bf16"), small_sam],
)
def test_features_are_those_of_the_network_as_it_is(make: Callable[[], Any], batches: list[int]) -> None:
    encoder = with_compiled(make(), "always")
    for ours, theirs in zip(features(encoder, 2), features(make(), 2), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert batches == [2]
    assert encoder.fingerprint() == make().fingerprint()


def test_only_the_largest_batches_are_compiled(batches: list[int]) -> None:
    network = Compiled(lambda batch: batch.cos(), always=True)
    for count in (2, 3, 1, 3, 2):
        torch.testing.assert_close(network(torch.ones(count, 4)), torch.ones(count, 4).cos())
    assert batches == [2, 3]


def test_few_batches_are_not_compiled_unless_always(
    monkeypatch: pytest.MonkeyPatch, batches: list[int]
) -> None:
    monkeypatch.setattr(compiled, "PATIENCE", 2)
    network = Compiled(lambda batch: batch.exp(), always=False)
    for count in (1, 1, 3, 3, 1, 1):
        network(torch.ones(count))
    assert not batches
    network(torch.ones(3))
    assert batches == [3]


def test_what_cannot_be_compiled_runs_as_it_is_or_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("no such instruction")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    monkeypatch.setattr(compiled, "PATIENCE", 0)
    network = Compiled(lambda batch: batch.sin(), always=False)
    with pytest.warns(UserWarning, match="no such instruction"):
        torch.testing.assert_close(network(torch.ones(2)), torch.ones(2).sin())
    network(torch.ones(3))  # is not tried again
    with pytest.raises(UsageError, match="no such instruction"):
        Compiled(lambda batch: batch.tan(), always=True)(torch.ones(2))


@pytest.mark.parametrize(
    ("lacks", "found"),
    [
        ("", (True, "compiled after 100 batches")),
        ("gcc", (False, "not compiled: there is no gcc or clang here")),
        ("triton", (False, "not compiled: triton is not installed")),
    ],
)
def test_auto_compiles_on_a_gpu_with_compilers(
    monkeypatch: pytest.MonkeyPatch, lacks: str, found: tuple[bool, str]
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None if lacks == "gcc" else name)
    monkeypatch.setattr(compiled, "find_spec", lambda name: None if lacks == name else name)
    gpu: Any = SimpleNamespace(device=torch.device("cuda"), image_network=torch.cos)
    assert choose_compiled("auto", gpu) == found
    assert choose_compiled("never", gpu) == (False, "not compiled, as asked for")


def test_always_is_an_error_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="RegionClip has no image network for inputs of one shape"):
        with_compiled(small_regionclip(), "always")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match="there is no no-such-compiler here"):
        with_compiled(small_clip(), "always")


def test_auto_leaves_a_cpu_and_the_compiler_alone() -> None:
    encoder = with_compiled(small_clip(), "auto")
    assert not isinstance(encoder.image_network, Compiled)
    assert choose_compiled("auto", encoder) == (False, "not compiled: that pays on a GPU alone")
