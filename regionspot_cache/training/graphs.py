"""Steps as CUDA graphs: at batch 16 a step is hundreds of small kernels, and starting them one by one takes
longer than they do."""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from regionspot_cache.training.config import TrainConfig
from regionspot_cache.training.distributed import ProcessGroup
from regionspot_cache.training.loader import Batch

Work = Callable[[], Tensor]


class Graphs(Protocol):
    """What makes graphs of work."""

    def lane(self) -> AbstractContextManager[None]:
        """Work in the block runs where graphs run: after all before the block, before all that follows."""
        ...

    def capture(self, work: Work) -> Work:
        """Record work that was done once before, without doing it; the result does it, and gives its output,
        which the next work of any graph overwrites."""
        ...


class CudaGraphs:
    """On a stream of their own, with their intermediate results in one pool: a graph runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def lane(self) -> Generator[None]:
        outside = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)

    def capture(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        # Only this thread is held to what a capture allows: others go on to pin the batches they read.
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            output = work()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


def why_not(device: torch.device, group: ProcessGroup, config: TrainConfig) -> str | None:
    """Why no step can be a graph here; None where steps can."""
    if device.type != "cuda":
        return f"not on {device.type}"
    if group.world > 1:
        return "several processes"
    return None if config.graphs else "training.graphs is false"


@dataclass
class _Shape:
    """One shape of batch: its buffers, and the step on them, a graph once there is one."""

    batch: Batch
    work: Work
    done: int = 0


class StageSteps:
    """The steps of a stage; of sources with fixed shapes as graphs, on buffers that stay where they are.

    The first batch of a shape is worked on eagerly, the warm-up that a capture needs. `collate` makes few
    shapes, so none is ever given up.

    Args:
        step: what is done with a batch on the device; gives a tensor.
        fixed: of every source, `Objective.fixed`.
        device: where batches are worked on.
        graphs: None where there are none.
    """

    def __init__(
        self,
        step: Callable[[Batch], Tensor],
        fixed: Sequence[bool],
        device: torch.device,
        graphs: Graphs | None,
    ) -> None:
        self._step, self._fixed, self._device, self._graphs = step, tuple(fixed), device, graphs
        self._shapes: dict[tuple[int, torch.Size], _Shape] = {}

    def fixes(self, source: int) -> bool:
        """Whether batches of a source shall have fixed shapes; see `collate`."""
        return self._graphs is not None and self._fixed[source]

    def __call__(self, batch: Batch) -> Tensor:
        """What `step` gives for a batch, which may be on the host."""
        if self._graphs is None or not self._fixed[batch.source]:
            return self._step(batch.to(self._device))
        with self._graphs.lane():
            shape = self._filled(batch)
            if shape.done == 1:
                shape.work = self._graphs.capture(shape.work)
            shape.done += 1
            return shape.work().clone()

    def _filled(self, batch: Batch) -> _Shape:
        """The buffers of its shape with its values."""
        key = (batch.source, batch.tokens.shape)
        if key not in self._shapes:
            buffers = batch.each(lambda tensor: torch.empty_like(tensor, device=self._device))
            self._shapes[key] = _Shape(buffers, lambda: self._step(buffers))
        shape = self._shapes[key]
        for name, value in batch.own.items():
            getattr(shape.batch, name).copy_(value, non_blocking=True)
        return shape
