"""Attention whose input lies so that a batch is multiplied as one matrix."""

import copy
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from regionspot_cache.backbones.clip_attention import lay_out_attention
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


@pytest.mark.parametrize("embed", [False, True])
def test_no_position_is_multiplied_on_its_own(embed: bool) -> None:
    plain = small_clip().model.visual
    plain = copy.deepcopy(plain)
    for module in plain.modules():
        module._forward_pre_hooks.clear()
    laid = copy.deepcopy(plain)
    lay_out_attention(laid)
    batch = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    found = {}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for name, tower in (("plain", plain), ("laid", laid)):
            with Products() as products:
                found[name] = image_embedding(tower, batch) if embed else tower(batch)
            # The projection of queries, keys and values, or of two of them.
            found[f"{name} widths"] = {VISION["width"] * k for k in (1, 2, 3)} & set(products.widths)
    torch.testing.assert_close(found["laid"], found["plain"], rtol=0.05, atol=0.05)
    assert found["plain widths"]
    assert not found["laid widths"]


def test_float32_is_left_as_it_is() -> None:
    laid = small_clip().model.visual
    plain = copy.deepcopy(laid)
    for module in plain.modules():
        module._forward_pre_hooks.clear()
    batch = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(laid(batch), plain(batch))
