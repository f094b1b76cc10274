"""Image networks through `torch.compile`, for whatever encoder says which its own is.

Compiled features differ from others within the rounding of their arithmetic, as those of another batch size
do, so compilation is no part of their identity.
"""

import os
import shutil
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor

from regionspot_cache.backbones.encoder import Compilable, Encoder
from regionspot_cache.backbones.presets import Compile
from regionspot_cache.errors import UsageError

BACKEND = "inductor"
PATIENCE = 100  # batches before "auto" compiles: a few images, as of `predict`, are done sooner without
_COMPILERS = {"cuda": ("CC", "gcc", "clang"), "cpu": ("CXX", "g++", "clang++")}  # a variable, then programs
E = TypeVar("E", bound=Encoder)


def choose_compiled(wanted: Compile, encoder: Encoder) -> tuple[bool, str]:
    """Whether an encoder is compiled, and why, for people: "not compiled: there is no gcc or clang here"."""
    kind = encoder.device.type
    if wanted == "never":
        return False, "not compiled, as asked for"
    if wanted == "auto" and kind != "cuda":
        return False, "not compiled: that pays on a GPU alone"
    if lack := _lack(encoder, kind):
        return False, f"not compiled: {lack}"
    return True, f"compiled{', as asked for' if wanted == 'always' else f' after {PATIENCE} batches'}"


def with_compiled(encoder: E, wanted: Compile) -> E:
    """The encoder, whose `image_network` is from now on compiled if that was chosen.

    Raises:
        UsageError: it must "always" be and cannot; by the first `encode`, where only that tells.
    """
    chosen, reason = choose_compiled(wanted, encoder)
    if chosen:
        network: Any = encoder
        network.image_network = Compiled(network.image_network, always=wanted == "always")
    elif wanted == "always":
        raise _refused(f"{type(encoder).__name__} is {reason}")
    return encoder


class Compiled:
    """A function of a batch, compiled for the largest size so far: `always` from its first batch on, or after
    `PATIENCE` of them. Smaller ones, such as the last of a partition, run as they are."""

    def __init__(self, network: Callable[[Tensor], Any], *, always: bool) -> None:
        self._network, self._always = network, always
        self._largest = self._seen = 0
        self._compiled = torch.compile(network, dynamic=False, backend=BACKEND)

    def __call__(self, batch: Tensor) -> Any:
        if len(batch) > self._largest:
            self._largest, self._seen = len(batch), 0
        self._seen += len(batch) == self._largest
        if len(batch) < self._largest or (self._seen <= PATIENCE and not self._always):
            return self._network(batch)
        from torch._dynamo.exc import TorchDynamoException  # loads no compiler, but takes its time

        try:
            return self._compiled(batch)
        except TorchDynamoException as error:
            said = " ".join(str(error).split())[:300]
        if self._always:
            raise _refused(f"its image network cannot be compiled: {said}")
        warnings.warn(f"an image network runs as it is, for it cannot be compiled: {said}", stacklevel=2)
        self._compiled = self._network
        return self._network(batch)


def _lack(encoder: Encoder, kind: str) -> str:
    """What a compilation lacks, or nothing."""
    if not isinstance(encoder, Compilable):
        return f"{type(encoder).__name__} has no image network for inputs of one shape"
    if kind == "cuda" and find_spec("triton") is None:
        return "triton is not installed"
    variable, *programs = _COMPILERS.get(kind, ("",))
    named = os.environ.get(variable)
    if programs and not any(map(shutil.which, [named] if named else programs)):
        return f"there is no {named or ' or '.join(programs)} here"
    return ""


def _refused(why: str) -> UsageError:
    return UsageError(
        f"compile: always, but {why}.",
        "A network that can be compiled, and its compiler.",
        "--set compile=auto",
    )
