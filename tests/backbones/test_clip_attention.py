"""Attention that multiplies a batch as one matrix, and gives what PyTorch's gives."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from regionspot_cache.backbones.clip_attention import FrozenAttention, freeze_attention
from regionspot_cache.backbones.clip_class_token import image_embedding
from tests.backbones.small import VISION, small_clip


class Products(TorchDispatchMode):
    """Widths of the right sides of all products of batches of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.widths: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bmm.default:
            self.widths.append(args[1].shape[-1])
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=[1, 2], ids="{} heads".format)
def towers(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """One with PyTorch's attention, and the same one frozen."""
    frozen = copy.deepcopy(small_clip().model.visual)
    for module in frozen.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.num_heads, module.head_dim = request.param, module.embed_dim // request.param
    plain = copy.deepcopy(frozen)
    for module in plain.modules():
        if isinstance(module, FrozenAttention):
            module.__class__ = nn.MultiheadAttention
    freeze_attention(frozen)
    return plain, frozen


@pytest.fixture
def batch() -> torch.Tensor:
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("embed", [False, True])
def test_no_position_is_multiplied_on_its_own(embed: bool, towers: tuple[Any, Any], batch: Any) -> None:
    found = {}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for name, tower in zip(("plain", "frozen"), towers, strict=True):
            with Products() as products:
                found[name] = image_embedding(tower, batch) if embed else tower(batch)
            # The projection of queries, keys and values, or of two of them.
            found[f"{name} widths"] = {VISION["width"] * k for k in (1, 2, 3)} & set(products.widths)
    torch.testing.assert_close(found["frozen"], found["plain"], rtol=0.05, atol=0.05)
    assert found["plain widths"]
    assert not found["frozen widths"]


def test_in_float32_it_says_the_same(towers: tuple[Any, Any], batch: torch.Tensor) -> None:
    plain, frozen = towers
    with torch.inference_mode():
        torch.testing.assert_close(frozen(batch), plain(batch), rtol=1e-5, atol=1e-5)
        for embedded in (image_embedding(plain, batch), image_embedding(frozen, batch)):
            torch.testing.assert_close(embedded, plain(batch), rtol=1e-5, atol=1e-5)


def test_what_it_does_not_know_goes_the_way_of_pytorch(towers: tuple[Any, Any]) -> None:
    """Weights that are asked for, masks, and gradients."""
    attentions = [tower.transformer.resblocks[0].attn for tower in towers]
    tokens = torch.randn(2, 5, VISION["width"], generator=torch.Generator().manual_seed(1))
    mask = torch.triu(torch.full((5, 5), -torch.inf), 1)
    for options in ({}, {"need_weights": False, "attn_mask": mask}):
        with torch.no_grad():
            expected, found = (attention(tokens, tokens, tokens, **options) for attention in attentions)
        torch.testing.assert_close(found, expected)
    attentions[1].requires_grad_()(tokens, tokens, tokens, need_weights=False)[0].sum().backward()
    assert attentions[1].in_proj_weight.grad is not None
