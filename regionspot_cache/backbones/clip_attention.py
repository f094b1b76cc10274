"""Attention of open_clip's image towers without gradients: a batch costs no more an image than one does.

PyTorch's own turns [N, L, E] into [L, N, E] without moving it, and then multiplies each of L positions on its
own; for bfloat16 on a CPU it also copies the weights L times. In float32 and with an even number of heads
another kernel runs, which keeps all weights of the attention in memory.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention


class FrozenAttention(nn.MultiheadAttention):
    """Multi-head attention as one product of the whole batch for queries, keys and values, and a fused rest.

    What it does not know, such as a mask, weights that are asked for or gradients, goes PyTorch's way.
    """

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """As of `nn.MultiheadAttention`."""
        weights = options.get("need_weights", True)
        others = bool(args) or any(v is not None for name, v in options.items() if name != "need_weights")
        if weights or others or key is not value or _recorded(query):
            return super().forward(query, key, value, *args, **options)
        weight, bias, width = self.in_proj_weight, self.in_proj_bias, self.embed_dim
        if query is key:
            q, k, v = self._heads(linear(query, weight, bias), 3)
        else:  # a few tokens ask
            of_query, of_others = (None, None) if bias is None else (bias[:width], bias[width:])
            [q] = self._heads(linear(query, weight[:width], of_query), 1)
            k, v = self._heads(linear(key, weight[width:], of_others), 2)
        found = scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out_proj(found.flatten(2)), None

    def _heads(self, projected: Tensor, count: int) -> list[Tensor]:
        """`count` tensors [N, heads, L, width of one]."""
        return [*projected.unflatten(2, (count, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)]


def freeze_attention(tower: nn.Module) -> None:
    """Turns every attention of [N, L, E] into a `FrozenAttention`, with its weights and name."""
    for module in tower.modules():
        if type(module) is nn.MultiheadAttention and module.batch_first and _is_plain(module):
            module.__class__ = FrozenAttention


def _is_plain(module: nn.MultiheadAttention) -> bool:
    return module._qkv_same_embed_dim and module.bias_k is None and not module.add_zero_attn


def _recorded(values: Tensor) -> bool:
    """Whether gradients are, or operations are only counted: what is counted is PyTorch's."""
    return torch.is_grad_enabled() or values.is_meta
