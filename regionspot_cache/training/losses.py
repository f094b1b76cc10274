"""Focal losses over a large vocabulary, averaged so that batches and processes can be split freely.

The official code takes the mean over the boxes, the SUM over classes and over the two images of a GPU, then
averages over GPUs. Here a box counts 1 / (real boxes of its image) and an image 1 / (images of the GLOBAL
batch): the official loss divided by the images per GPU. AdamW does not notice the constant, only the gradient
clip of 1.0 bites at another point.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def sigmoid_focal_loss(
    logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0, ignore: Tensor | None = None
) -> Tensor:
    """Focal loss (Lin et al., 2017, equation 5) of one-hot labels, summed over the classes: float32 [T].

    Equals `torchvision.ops.sigmoid_focal_loss(logits, one_hot).sum(1)` without building the one-hot matrix.

    Args:
        logits: [T, K], any float dtype; computed in float32.
        labels: int64 [T], 0 <= label < K.
        ignore: bool [T, K], True where a class says nothing about this box; a box's own label always counts.
    """
    logits = logits.float()
    picked = labels.unsqueeze(1)  # [T, 1]
    negatives = (1 - alpha) * torch.sigmoid(logits).pow(gamma) * F.softplus(logits)  # [T, K]
    if ignore is not None:
        negatives = negatives.masked_fill(ignore, 0.0)
    positive = logits.gather(1, picked)  # [T, 1]
    positives = alpha * torch.sigmoid(-positive).pow(gamma) * F.softplus(-positive)
    # Replacing the label's column (not subtracting it from the sum) keeps the sum exact for huge logits.
    return negatives.scatter(1, picked, positives).sum(1)


def softmax_focal_loss(
    logits: Tensor, labels: Tensor, *, gamma: float = 0.5, ignore: Tensor | None = None
) -> Tensor:
    """Cross entropy times (1 - p)^gamma, p the probability of the label: float32 [T].

    RegionCLIP's loss of base classes when it is fine-tuned for detection. Its background class has no part in
    it: every box here shows an object. Arguments as of `sigmoid_focal_loss`.
    """
    picked, logits = labels.unsqueeze(1), logits.float()
    if ignore is not None:
        logits = logits.masked_fill(ignore.scatter(1, picked, False), -torch.inf)
    logs = logits.log_softmax(1).gather(1, picked).squeeze(1)
    others = -torch.expm1(logs)
    return -others.clamp(min=1e-7).pow(gamma) * logs  # a power below 1 has no gradient at 0


def box_weights(counts: NDArray[np.int64], images: int) -> NDArray[np.float32]:
    """Weight of every box: mean over an image's boxes, then mean over the global batch.

    Plain numpy, because readers call it from their threads; see `training.loader.collate`.

    Args:
        counts: int64 [B], real boxes per image, each at least 1.
        images: images of the global batch, over all processes.

    Returns:
        float32 [T] with T = counts.sum(), image after image; sums to B / images.
    """
    return np.repeat(1.0 / (counts.astype(np.float64) * images), counts).astype(np.float32)


def region_loss(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    kind: Literal["sigmoid", "softmax"] = "sigmoid",
    alpha: float = 0.25,
    gamma: float = 2.0,
    ignore: Tensor | None = None,
) -> Tensor:
    """This process's share of the global batch's loss; the sum over processes is the batch's loss.

    A float32 scalar, of logits [T, K] of the real boxes only, labels int64 [T], weights float32 [T] from
    `box_weights`; `kind` says whether classes are asked for one by one or against each other; `ignore` as of
    `sigmoid_focal_loss`.
    """
    if kind == "softmax":
        return (softmax_focal_loss(logits, labels, gamma=gamma, ignore=ignore) * weights).sum()
    return (sigmoid_focal_loss(logits, labels, alpha=alpha, gamma=gamma, ignore=ignore) * weights).sum()
