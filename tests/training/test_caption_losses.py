"""RegionCLIP's losses against the paper's forms written out, and split between real processes."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.functional import normalize

from regionspot_cache.training.caption_losses import concept_contrastive, distillation, image_text
from regionspot_cache.training.distributed import ProcessGroup

WIDTH, POOL, K, T = 8, 11, 4, 0.1


def random_case(regions: int = 9) -> dict[str, Tensor]:
    """Unit regions [R, E] and concepts [P, E], the teacher's distribution [R, P], captions [R, E]."""
    generator = torch.Generator().manual_seed(regions)

    def units(rows: int) -> Tensor:
        return normalize(torch.randn(rows, WIDTH, generator=generator), dim=1)

    teacher = (3 * torch.randn(regions, POOL, generator=generator)).softmax(1)
    return {"v": units(regions), "pool": units(POOL), "teacher": teacher, "captions": units(regions)}


def top(teacher: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    probs, ids = teacher.topk(k, dim=1)
    return ids, probs, (1 - probs.sum(1)).clamp(min=0)


def multiple_instance_cross_entropy(v: Tensor, ids: Tensor, pool: Tensor) -> Tensor:
    """The paper's: the softmax over all regions' concepts, the mass of all regions of the own concept."""
    pairs = (v @ pool[ids].T / T).softmax(1)  # [R, R]
    same = ids[:, None] == ids[None, :]
    return -torch.where(same, pairs, 0.0).sum(1).log().mean()


def test_the_contrastive_loss_is_the_cross_entropy_over_all_pairs() -> None:
    case = random_case()
    ids = torch.tensor([3, 3, 3, 0, 7, 7, 10, 3, 0])
    for_ours, for_theirs = (case["v"].clone().requires_grad_() for _ in range(2))
    ours = concept_contrastive(for_ours @ case["pool"].T / T, ids)
    theirs = multiple_instance_cross_entropy(for_theirs, ids, case["pool"])
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(for_ours.grad, for_theirs.grad, atol=1e-6, rtol=0)


def test_distillation_becomes_the_full_divergence_as_k_grows() -> None:
    case = random_case()
    logits = case["v"] @ case["pool"].T / T
    full = torch.nn.functional.kl_div(logits.log_softmax(1), case["teacher"], reduction="batchmean")
    losses = [distillation(logits, *top(case["teacher"], k)) for k in range(1, POOL + 1)]
    missing = [float(full - loss) for loss in losses]
    assert missing[0] > 0.05
    assert all(before >= after - 1e-6 for before, after in pairwise(missing))
    torch.testing.assert_close(losses[-1], full)
    torch.testing.assert_close(losses[-2], full)  # one concept is left: the rest is that one


def test_distillation_is_zero_with_zero_gradient_where_both_agree() -> None:
    teacher = random_case()["teacher"]
    logits = teacher.log().requires_grad_()
    loss = distillation(logits, *top(teacher, K))
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-6, rtol=0)


def test_probabilities_too_small_for_float32_stay_finite() -> None:
    logits = torch.tensor([[100.0, -100.0, -100.0, -100.0]], requires_grad=True)
    one = torch.tensor([[1.0]])
    loss = distillation(logits, torch.tensor([[1]]), one, torch.zeros(1))
    torch.testing.assert_close(loss, torch.tensor(200.0))
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[1.0, -1.0, 0.0, 0.0]]))


def test_pictures_and_captions_are_told_apart_both_ways() -> None:
    case = random_case()
    logits = case["v"] @ case["captions"].T / T
    pictures, captions = -logits.log_softmax(1).diag(), -logits.log_softmax(0).diag()
    expected = (pictures.mean() + captions.mean()) / 2
    torch.testing.assert_close(image_text(case["v"], case["captions"], T), expected)
    aligned = image_text(case["v"], case["v"], T)
    assert aligned < expected


def test_a_batch_without_kept_regions_has_no_loss_and_no_gradient() -> None:
    case = random_case()
    v = case["v"].requires_grad_()
    kept = torch.zeros(len(v), dtype=torch.bool)
    logits = v[kept] @ case["pool"].T / T
    ids, probs, rest = (part[kept] for part in top(case["teacher"], K))
    loss = concept_contrastive(logits, ids[:, 0]) + distillation(logits, ids, probs, rest)
    loss = loss + image_text(v[kept], case["captions"][kept], T)
    loss.backward()
    assert loss == 0
    torch.testing.assert_close(v.grad, torch.zeros_like(v))


def all_losses(case: dict[str, Tensor], rows: slice, group: ProcessGroup) -> tuple[Tensor, Tensor]:
    """The share of these rows: three losses, and the gradient of their sum by v [R of the slice, E]."""
    v = case["v"][rows].clone().requires_grad_()
    logits = v @ case["pool"].T / T
    ids, probs, rest = (part[rows] for part in top(case["teacher"], K))
    losses = torch.stack(
        [
            concept_contrastive(logits, ids[:, 0], group),
            distillation(logits, ids, probs, rest, group),
            image_text(v, case["captions"][rows], T, group),
        ]
    )
    losses.sum().backward()
    assert v.grad is not None
    return losses.detach(), v.grad


def one_of_two(rank: int, first: int, folder: str) -> None:
    """A process that has the first rows of the batch, or the others."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    rows = slice(None, first) if rank == 0 else slice(first, None)
    losses, gradient = all_losses(random_case(), rows, ProcessGroup(rank=rank, world=2))
    torch.save({"losses": losses, "gradient": gradient}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("first", [5, 0])
def test_two_processes_have_the_loss_and_the_gradient_of_one(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    mp.spawn(one_of_two, args=(first, str(tmp_path)), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    losses, gradient = all_losses(random_case(), slice(None), ProcessGroup())
    assert (losses > 0.1).all()
    torch.testing.assert_close(found[0]["losses"] + found[1]["losses"], losses)
    torch.testing.assert_close(torch.cat([part["gradient"] for part in found]), gradient)
