"""The loss of a batch of one source: the focal loss of boxes with labels, or the losses on captions.

The two agree on what may be asked of cosines. A sigmoid says yes or no to each, so RegionSpot's focal loss
moves all of them at once until those of wrong classes are below zero; a softmax, in training on captions as
in recognition, compares the cosines of one region alone. `HeadOptions.offset` gives the focal loss a
threshold of its own to learn, and the losses on captions have a temperature of their own.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from regionspot_cache.training.caption_losses import concept_contrastive, distillation, image_text
from regionspot_cache.training.caption_source import CaptionSource
from regionspot_cache.training.config import TrainConfig
from regionspot_cache.training.distributed import ProcessGroup
from regionspot_cache.training.head import RegionHead
from regionspot_cache.training.loader import Batch
from regionspot_cache.training.losses import region_loss
from regionspot_cache.training.sources import FeatureSource, TrainingSource


class Objective(Protocol):
    """The loss of a source.

    Attributes:
        fixed: whether shapes alone decide what it computes, and boxes of weight 0 do not count.
    """

    fixed: bool

    def __call__(self, head: RegionHead, real: Tensor, batch: Batch, group: ProcessGroup) -> Tensor:
        """This process's share of the loss, a scalar, of the embeddings [T, E] of the real boxes."""
        ...


def objective(source: FeatureSource, config: TrainConfig, device: torch.device) -> Objective:
    """The loss of a source of either kind, with its texts on the device."""
    if isinstance(source, CaptionSource):
        return CaptionObjective(source, device)
    assert isinstance(source, TrainingSource)
    return BoxObjective(source, config, device)


class BoxObjective:
    """The loss of boxes with labels."""

    fixed = True

    def __init__(self, source: TrainingSource, config: TrainConfig, device: torch.device) -> None:
        self.scale, self.kind = source.scale, config.loss
        self.alpha, self.gamma = config.focal_alpha, config.focal_gamma
        self.text = torch.as_tensor(source.text_embeddings).to(device).float()
        self.ignore = None if source.ignore is None else torch.as_tensor(source.ignore).to(device)

    def __call__(self, head: RegionHead, real: Tensor, batch: Batch, group: ProcessGroup) -> Tensor:
        logits = head.logits(real, self.text)
        if head.offset is not None:
            logits = logits + head.config.logit_scale * head.offset
        ignore = None if self.ignore is None else self.ignore.index_select(0, batch.labels)
        how = {"kind": self.kind, "alpha": self.alpha, "gamma": self.gamma}
        return self.scale * region_loss(logits, batch.labels, batch.weights, ignore=ignore, **how)


class CaptionObjective:
    """RegionCLIP's losses; `batch.targets` are `CaptionTargets`, of another number in every batch."""

    fixed = False

    def __init__(self, source: CaptionSource, device: torch.device) -> None:
        self.scale, self.options = source.scale, source.options
        self.pool = torch.as_tensor(source.text_embeddings).to(device).float()

    def __call__(self, head: RegionHead, real: Tensor, batch: Batch, group: ProcessGroup) -> Tensor:
        kept, ids, probs, rest, frames, captions = batch.targets
        weights, temperature = self.options.weights, self.options.temperature
        regions = normalize(real.float(), dim=-1)
        logits = regions[kept] @ self.pool.T / temperature  # [R, P]
        loss = weights.contrastive * concept_contrastive(logits, ids[:, 0], group)
        loss = loss + weights.distillation * distillation(logits, ids, probs, rest, group)
        loss = loss + weights.image_text * image_text(regions[frames], captions, temperature, group)
        return self.scale * loss
