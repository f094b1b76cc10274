"""What keeps a head that goes on learning near the head that it began as."""

import torch
from torch import nn


class Anchor:
    """Decay of the weights towards their initial values: L2-SP (Li et al., 2018), decoupled as in AdamW.

    In the loss, the optimiser would divide it by the size of the gradients. As it is, a weight moves by
    about the learning rate a step, so that it hardly gets farther than 1 / `weight` from where it was.

    Args:
        model: as it is now.
        weight: 0 does nothing.
    """

    def __init__(self, model: nn.Module, weight: float) -> None:
        self.weight = weight
        self._now = [parameter.detach() for parameter in model.parameters()] if weight else []
        self._initial = [parameter.clone() for parameter in self._now]

    @torch.no_grad()
    def pull(self, rate: float) -> None:
        """After a step of this learning rate."""
        if self._now:
            torch._foreach_lerp_(self._now, self._initial, min(1.0, rate * self.weight))
