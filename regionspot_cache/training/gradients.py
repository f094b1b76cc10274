"""Gradients of all parameters in one buffer: one zeroing, one all-reduce, one norm."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from regionspot_cache.training.distributed import ProcessGroup


class FlatGradients:
    """Makes every parameter's `.grad` a view of one buffer; backward passes add into it.

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
