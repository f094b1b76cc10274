"""The processes of a run, started by torchrun; a run without torchrun is a group of one."""

import importlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


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
