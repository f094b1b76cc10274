"""What a training step does with the tensors of a batch.

Nothing here waits for the device or depends on values there, as far as an objective's does not
(`Objective.fixed`), so that `graphs` can make one CUDA graph of it.
"""

from copy import deepcopy

import torch
from torch import Tensor

from regionspot_cache.backbones.arithmetic import autocast, choose
from regionspot_cache.training.anchor import Anchor, Memory
from regionspot_cache.training.config import TrainConfig
from regionspot_cache.training.distributed import FlatGradients, ProcessGroup
from regionspot_cache.training.head import RegionHead
from regionspot_cache.training.loader import Batch
from regionspot_cache.training.setup import StageData


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seed the generator that dropout draws from, of graphs too.

    `torch.manual_seed` also remembers the seed, and a formatted stack, for each kind of device that is not
    there, which takes longer than all else that the host does for a graph.
    """
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
    elif device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


class HeadStep:
    """The head, its optimiser, and what keeps it from forgetting.

    Attributes:
        rate: scalar on the device, the learning rate of the next step.
    """

    def __init__(
        self, head: RegionHead, config: TrainConfig, device: torch.device, group: ProcessGroup
    ) -> None:
        self.head, self.config, self.device, self.group = head, config, device, group
        self.arithmetic = choose(config.precision, device).arithmetic
        self.anchor = Anchor(head, config.towards_initial)
        self.memory = Memory(deepcopy(head), config.distillation) if config.distillation else None
        self.gradients = FlatGradients(head.parameters())
        # CUDA's optimiser takes float32 alone; the CPU's takes the number as it is.
        precise = torch.float64 if device.type == "cpu" else torch.float32
        self.rate = torch.zeros((), dtype=precise, device=device)
        self.optimizer = self._new_optimizer()

    def forget_moments(self) -> None:
        """Begin a stage with an optimiser that has seen nothing."""
        self.optimizer = self._new_optimizer()

    def __call__(self, batch: Batch, data: StageData) -> Tensor:
        """Do the step of a batch that lies on the device; float32 [2], loss and norm of its gradient."""
        self.gradients.clear()
        loss = self._loss(batch, data)
        loss.backward()
        loss = self.gradients.reduce(loss, self.group)
        norm = self.gradients.clip(self.config.gradient_clip)
        self.optimizer.step()
        self.anchor.pull(self.rate)
        return torch.stack([loss, norm])

    def _loss(self, batch: Batch, data: StageData) -> Tensor:
        with autocast(self.arithmetic, self.device):
            embeddings = self.head(batch.tokens, batch.feature_map(), batch.real)  # [B, N, E]
        real = embeddings.flatten(0, 1).index_select(0, batch.places)  # [T, E]
        loss = data.objectives[batch.source](self.head, real, batch, self.group)
        known = data.known[batch.source]
        if self.memory is None or known is None:
            return loss
        return loss + self.memory.loss(self.head, real, batch, known)

    def _new_optimizer(self) -> torch.optim.AdamW:
        config = self.config
        # One parameter group: weight decay acts on norms and biases too, as in the paper's code.
        optimizer = torch.optim.AdamW(
            self.head.parameters(),
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
            capturable=self.device.type == "cuda",
        )
        optimizer.param_groups[0]["lr"] = self.rate
        return optimizer
