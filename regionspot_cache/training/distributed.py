"""The processes of a run, started by torchrun (else a group of one), their gradients, and signals to them."""

import importlib
import os
import signal
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """This process's place among the `world` processes of the run."""

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The main process's values, in place."""
        if self.world > 1:
            dist.broadcast(tensor, src=0)
        return tensor

    def barrier(self, device: torch.device) -> None:
        """Wait for all processes."""
        self.sum(torch.zeros(1, device=device))


@contextmanager
def join_processes(device: torch.device) -> Generator[ProcessGroup, None, None]:
    """The group that torchrun's environment describes; NCCL between CUDA devices, gloo otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ProcessGroup()
        return
    started = not dist.is_initialized()
    if started:
        # An optimizer imports it, and imported while a group exists it keeps that group and its threads alive
        # until the interpreter ends, which a thread that still frees a tensor does not survive.
        importlib.import_module("torch._dynamo")
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield ProcessGroup(rank=dist.get_rank(), world=dist.get_world_size())
    finally:
        if started:
            dist.destroy_process_group()


def local_device(device: str | torch.device) -> torch.device:
    """`device`, with this process's own GPU where several processes share a machine."""
    chosen = torch.device(device)
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    return chosen


class FlatGradients:
    """Makes every parameter's `.grad` a view of one buffer: one zeroing, one all-reduce, one norm.

    Each process's gradient is of its share of the batch's loss, so the plain sum is the batch's gradient.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        parameters = list(parameters)
        sizes = [parameter.numel() for parameter in parameters]
        # The last place carries the loss, which is summed over the processes in the same call.
        self._buffer = torch.zeros(sum(sizes) + 1, device=parameters[0].device)
        for parameter, part in zip(parameters, self._buffer[:-1].split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)

    def clear(self) -> None:
        self._buffer.zero_()

    def reduce(self, loss: Tensor, group: ProcessGroup) -> Tensor:
        """Sum gradients and loss over the processes; returns the batch's loss, a scalar."""
        self._buffer[-1] = loss.detach()
        return group.sum(self._buffer)[-1].clone()

    def clip(self, limit: float) -> Tensor:
        """Scale the whole gradient down to an L2 norm of at most `limit`; returns the norm before."""
        gradients = self._buffer[:-1]
        norm = gradients.norm()
        gradients.mul_((limit / (norm + 1e-6)).clamp(max=1.0))
        return norm


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruptible:
    """Turns the first signal into `asked`, which the loop grants after its step; a second one acts at once.

    Outside the main thread, where Python takes no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._usual: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._usual = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._usual.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
