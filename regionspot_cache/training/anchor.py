"""What keeps a head that goes on learning from forgetting: its weights stay near, or what it says does."""

import torch
from torch import Tensor, nn

from regionspot_cache.training.head import RegionHead
from regionspot_cache.training.loader import Batch


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
    def pull(self, rate: Tensor) -> None:
        """After a step of this learning rate, a scalar on the device."""
        if self._now:
            way = (rate * self.weight).clamp(max=1.0).float()
            torch._foreach_lerp_(self._now, self._initial, [way] * len(self._now))


class Memory:
    """Distillation from the head as it began, on the classes that it knew (Li and Hoiem, 2016).

    Args:
        initial: the head as it began.
        weight: of the loss.
    """

    def __init__(self, initial: RegionHead, weight: float) -> None:
        self.initial, self.weight = initial.eval().requires_grad_(False), weight

    def loss(self, head: RegionHead, real: Tensor, batch: Batch, known: Tensor) -> Tensor:
        """This process's share of the loss, a scalar, of the embeddings [T, E] of the real boxes.

        It is the divergence of what the heads say among the known classes, unit rows [P, E].
        """
        with torch.no_grad():
            before = self.initial(batch.tokens, batch.feature_map(), batch.real).flatten(0, 1)
            wanted = self.initial.logits(before.index_select(0, batch.places), known).log_softmax(-1)
        said = head.logits(real, known).log_softmax(-1)
        return self.weight * ((wanted.exp() * (wanted - said)).sum(-1) * batch.weights).sum()
