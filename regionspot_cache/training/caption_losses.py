"""RegionCLIP's losses on regions without labels (Zhong et al., 2022, section 3.3): a frozen teacher says what
each region shows, and a caption what the whole picture does.

As with `losses.region_loss`, every function returns this process's share: the sum over the processes is the
loss of the global batch, and the sum of their gradients its gradient. The paper draws the negatives of the
first loss from one GPU; here they are those of the global batch, so that the split does not matter.
Cosines and losses are float32.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from regionspot_cache.training.distributed import ProcessGroup

ALONE = ProcessGroup()


def concept_contrastive(logits: Tensor, ids: Tensor, group: ProcessGroup = ALONE) -> Tensor:
    """Every region against the concepts of all regions: which of these regions have the concept of this one.

    The paper's cross entropy over all pairs of regions, in which the softmax mass of all regions of the own
    concept counts as right, equals one over the concepts that occur, each with the logarithm of its regions
    added; so no matrix of pairs is made.

    Args:
        logits: float32 [R, P], cosines of R regions and the P concepts of the pool over the temperature.
        ids: int64 [R], the concept of each.
        group: the processes that share the batch; R may differ among them and be 0.

    Returns:
        float32 scalar; the mean over the regions of the batch, 0 if it has none.
    """
    counts = group.sum(torch.bincount(ids, minlength=logits.shape[1]))
    # A concept that does not occur gets -inf, and so no probability and no gradient.
    return F.cross_entropy(logits + counts.log(), ids, reduction="sum") / counts.sum().clamp(min=1)


def distillation(
    logits: Tensor, ids: Tensor, probs: Tensor, rest: Tensor, group: ProcessGroup = ALONE
) -> Tensor:
    """KL divergence of the regions' distributions over the pool from those of the teacher.

    Of the teacher's distribution the k likeliest concepts are known one by one and all others as one.

    Args:
        logits: float32 [R, P], as of `concept_contrastive`.
        ids: int64 [R, k], distinct concepts of each region.
        probs: float32 [R, k], what the teacher gives to them.
        rest: float32 [R], what it gives to all others together.
        group: as of `concept_contrastive`.

    Returns:
        float32 scalar; the mean over the regions of the batch, 0 if it has none.
    """
    log_p = logits.log_softmax(1)
    known = (torch.xlogy(probs, probs) - probs * log_p.gather(1, ids)).sum()
    if ids.shape[1] < logits.shape[1]:
        others = log_p.scatter(1, ids, -torch.inf).logsumexp(1)
        known = known + (torch.xlogy(rest, rest) - rest * others).sum()
    total = group.sum(torch.tensor(len(ids), device=logits.device))
    return known / total.clamp(min=1)


def image_text(frames: Tensor, captions: Tensor, temperature: float, group: ProcessGroup = ALONE) -> Tensor:
    """Symmetric InfoNCE of pictures and their captions, over all pictures of the batch.

    Args:
        frames: float32 [B, E], unit length: the region that is the whole picture.
        captions: float32 [B, E], unit length, of the same pictures; needs no gradient.
        temperature: of the cosines.
        group: as of `concept_contrastive`; B may differ among the processes and be 0.

    Returns:
        float32 scalar; the mean over pictures and over captions, halved; 0 if there are none.
    """
    counts = torch.zeros(group.world, dtype=torch.int64, device=frames.device)
    counts[group.rank] = len(frames)
    counts = group.sum(counts).tolist()
    before, after = sum(counts[: group.rank]), sum(counts[group.rank + 1 :])

    def of_all(rows: Tensor) -> Tensor:
        return _SumOverProcesses.apply(F.pad(rows, (0, 0, before, after)), group)

    own = torch.arange(before, before + len(frames), device=frames.device)
    to_captions = F.cross_entropy(frames @ of_all(captions).T / temperature, own, reduction="sum")
    to_frames = F.cross_entropy(captions @ of_all(frames).T / temperature, own, reduction="sum")
    return (to_captions + to_frames) / (2 * max(sum(counts), 1))


class _SumOverProcesses(Function):
    """Sum over the processes; the gradient is the sum of theirs.

    Of rows with zeros in the places of the others, this gathers all rows, also where each has another number.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return group.sum(rows.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.group.sum(gradients[0].clone()), None
