"""The focal loss against torchvision, and its independence from how a batch is split."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

from regionspot_cache.training.losses import box_weights, region_loss, sigmoid_focal_loss, softmax_focal_loss


def random_case(boxes: int = 12, classes: int = 7, scale: float = 5.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(boxes * classes)
    logits = torch.randn(boxes, classes, generator=generator) * scale
    return logits, torch.randint(classes, (boxes,), generator=generator)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.0)])
def test_focal_loss_and_gradient_equal_torchvision(alpha: float, gamma: float) -> None:
    logits, labels = random_case()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = sigmoid_focal_loss(ours, labels, alpha=alpha, gamma=gamma)
    one_hot = F.one_hot(labels, logits.shape[1]).float()
    expected = torchvision_focal_loss(theirs, one_hot, alpha=alpha, gamma=gamma).sum(1)
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_huge_logits_keep_the_small_terms() -> None:
    logits = torch.tensor([[100.0, -3.0, -100.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([0]))
    expected = 0.75 * torch.sigmoid(torch.tensor(-3.0)) ** 2 * F.softplus(torch.tensor(-3.0))
    torch.testing.assert_close(loss[0], expected)
    loss.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_ignored_classes_have_no_loss_and_no_gradient() -> None:
    logits, labels = random_case(boxes=4, classes=5)
    logits.requires_grad_()
    ignore = torch.zeros(4, 5, dtype=torch.bool)
    ignore[:, 2] = True
    sigmoid_focal_loss(logits, labels, ignore=ignore).sum().backward()
    silent = ignore & (F.one_hot(labels, 5) == 0)
    assert (logits.grad[silent] == 0).all()
    assert (logits.grad[~silent] != 0).all()  # a box's own label counts even when it is in the mask


def test_loss_is_mean_over_boxes_then_over_images() -> None:
    logits, labels = random_case(boxes=6)
    weights = torch.from_numpy(box_weights(np.array([1, 2, 3]), images=3))
    per_box = sigmoid_focal_loss(logits, labels)
    expected = torch.stack([per_box[:1].mean(), per_box[1:3].mean(), per_box[3:].mean()]).mean()
    torch.testing.assert_close(region_loss(logits, labels, weights), expected)


def test_shares_of_two_processes_add_up_to_the_batch() -> None:
    logits, labels = random_case(boxes=6)
    counts = np.array([1, 2, 3])
    whole = region_loss(logits, labels, torch.from_numpy(box_weights(counts, images=3)))
    first = region_loss(logits[:3], labels[:3], torch.from_numpy(box_weights(counts[:2], images=3)))
    second = region_loss(logits[3:], labels[3:], torch.from_numpy(box_weights(counts[2:], images=3)))
    torch.testing.assert_close(first + second, whole)


def test_the_softmax_loss_is_a_weighted_cross_entropy() -> None:
    logits, labels = random_case()
    logits.requires_grad_()
    entropy = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(softmax_focal_loss(logits, labels, gamma=0.0), entropy)
    expected = (1 - torch.exp(-entropy)) ** 0.5 * entropy
    torch.testing.assert_close(softmax_focal_loss(logits, labels, gamma=0.5), expected)
    weights = torch.from_numpy(box_weights(np.array([4, 8]), images=2))
    both = region_loss(logits, labels, weights, kind="softmax", gamma=0.5)
    torch.testing.assert_close(both, (expected * weights).sum())


def test_a_sure_box_has_a_gradient_of_zero_by_softmax() -> None:
    logits = torch.tensor([[200.0, 0.0, -5.0]], requires_grad=True)
    softmax_focal_loss(logits, torch.tensor([0])).sum().backward()
    assert (logits.grad == 0).all()


def test_ignored_classes_are_no_rivals_by_softmax() -> None:
    logits, labels = random_case(boxes=4, classes=5)
    ignore = torch.zeros(4, 5, dtype=torch.bool)
    ignore[:, 2] = True
    labels[:] = torch.tensor([0, 1, 3, 2])
    without = torch.tensor([0, 1, 3, 4])
    expected = softmax_focal_loss(logits[:3][:, without], torch.tensor([0, 1, 2]))
    found = softmax_focal_loss(logits, labels, ignore=ignore)
    torch.testing.assert_close(found[:3], expected)
    assert torch.isfinite(found[3])
