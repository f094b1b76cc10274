"""Post-norm DETR decoder (tensor names of `nn.TransformerDecoder`), arranged for few boxes and long maps."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention with the parameters of `nn.MultiheadAttention`, arranged for few queries.

    The key part of `in_proj_bias` is left out of the arithmetic: it adds one number to all scores of a
    query and cancels in the softmax, while Adam would turn its rounding noise into full steps.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    @property
    def head_dim(self) -> int:
        return self.in_proj_weight.shape[1] // self.num_heads

    def forward(self, query: Tensor, memory: Tensor, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend from `query` [B, N, d] to `memory` [B, M, d]; `real` bool [B, M] marks the keys that exist.

        Written with plain matrix products: the weights are needed for pictures, and a training step of the
        whole decoder takes 0.7 of the time of `nn.TransformerDecoder` on a CPU.

        Returns:
            output [B, N, d] and the weights averaged over the heads [B, N, M].
        """
        w_query, w_key, w_value = self.in_proj_weight.chunk(3)
        b_query, _, b_value = self.in_proj_bias.chunk(3)
        queries = self._split(F.linear(query, w_query, b_query)) / math.sqrt(self.head_dim)  # [B, H, N, d/H]
        # Projecting the few queries instead of all keys and values costs H N d instead of M d d products per
        # map token, gives the same numbers, and needs no projected copy of the map.
        if query.shape[1] < self.head_dim and query is not memory:
            values, weights = self._absorbed(queries, memory, w_key, w_value, b_value, real)
        else:
            keys = self._split(F.linear(memory, w_key))
            weights = self._softmax(queries @ keys.transpose(2, 3), real)  # [B, H, N, M]
            values = self._drop(weights) @ self._split(F.linear(memory, w_value, b_value))  # [B, H, N, d/H]
        return self.out_proj(values.transpose(1, 2).flatten(2)), weights.mean(1)

    def alone(self, x: Tensor) -> Tensor:
        """What self-attention gives a box that is the only one of its image; x and result [B, N, d]."""
        w_value, b_value = self.in_proj_weight.chunk(3)[2], self.in_proj_bias.chunk(3)[2]
        values = self._split(F.linear(x, w_value, b_value))  # [B, H, N, d/H]
        kept = self._drop(values.new_ones(*values.shape[:3], 1))  # the softmax over a single key is 1
        return self.out_proj((kept * values).transpose(1, 2).flatten(2))

    def _absorbed(
        self,
        queries: Tensor,
        memory: Tensor,
        w_key: Tensor,
        w_value: Tensor,
        b_value: Tensor,
        real: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        heads = (self.num_heads, self.head_dim)
        folded = queries @ w_key.unflatten(0, heads)  # [B, H, N, d]
        scores = folded.flatten(1, 2) @ memory.transpose(1, 2)  # [B, H*N, M]
        weights = self._softmax(scores.unflatten(1, queries.shape[1:3]), real)  # [B, H, N, M]
        kept = self._drop(weights)
        mixed = (kept.flatten(1, 2) @ memory).unflatten(1, queries.shape[1:3])  # [B, H, N, d]
        values = mixed @ w_value.unflatten(0, heads).transpose(1, 2)  # [B, H, N, d/H]
        # After dropout a row no longer sums to 1, so the value bias counts as often as the row says.
        return values + kept.sum(-1, keepdim=True) * b_value.unflatten(0, heads)[:, None], weights

    def _softmax(self, scores: Tensor, real: Tensor | None) -> Tensor:
        if real is not None:
            # A finite minimum, so that an image without any real box does not turn into NaN.
            scores = scores.masked_fill(~real[:, None, None], torch.finfo(scores.dtype).min)
        return scores.softmax(dim=-1)

    def _drop(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, self.dropout, self.training)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)  # [B, H, *, d/H]


class DecoderLayer(nn.Module):
    """Post-norm DETR decoder layer: boxes to boxes (or each to itself alone), boxes to map, feed-forward."""

    def __init__(
        self, dim: int, num_heads: int, *, ffn_dim: int, dropout: float, self_attention: bool
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.self_attn = Attention(dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.multihead_attn = Attention(dim, num_heads, dropout)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, boxes: Tensor, memory: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
        """boxes [B, N, d], memory [B, M, d], real bool [B, N] -> boxes [B, N, d], attention [B, N, M]."""
        attended = (
            self.self_attn(boxes, boxes, real)[0] if self.self_attention else self.self_attn.alone(boxes)
        )
        boxes = self.norm1(boxes + self.dropout(attended))
        attended, attention = self.multihead_attn(boxes, memory)
        boxes = self.norm2(boxes + self.dropout(attended))
        expanded = self.dropout(F.relu(self.linear1(boxes)))  # [B, N, ffn_dim]
        return self.norm3(boxes + self.dropout(self.linear2(expanded))), attention


class Decoder(nn.Module):
    """A stack of layers, each initialised on its own, and a last LayerNorm."""

    def __init__(self, layers: Iterable[DecoderLayer], dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim)

    def forward(self, boxes: Tensor, memory: Tensor, real: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """As `DecoderLayer`, with the attention of every layer."""
        attentions = []
        for layer in self.layers:
            boxes, attention = layer(boxes, memory, real)
            attentions.append(attention)
        return self.norm(boxes), attentions
