"""SAM's mask tokens for a flat list of boxes of many images, without masks.

Gives what the two-way transformer of `segment_anything.modeling` gives, through its own layers, but
- skips the up-scaling and the hyper-networks,
- projects the image once per image, not per box, where the first layer reads it, and
- lets few tokens and many cells attend by projecting on the side of the tokens: q (W m) = (q W) m. With
  7 tokens and 8 heads that is 56 products per cell in place of 128.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import Tensor


@dataclass(frozen=True)
class TokenDecoder:
    """The part of a mask decoder that makes tokens."""

    transformer: TwoWayTransformer
    output: Tensor  # [T,D] learned tokens that stand before those of the prompt
    mask_token: int  # which of them is mask token 0

    def __call__(
        self,
        embeddings: Tensor,
        dense: Tensor,
        position: Tensor,
        counts: list[int],
        prompts: Tensor,
        chunk_bytes: int,
    ) -> Tensor:
        """Mask token 0 of all boxes of B images, decoded in chunks of a fixed size.

        Args:
            embeddings, dense, position: as of `prepare_images`.
            counts: boxes of each image.
            prompts: [N,P,D] embeddings of the boxes of all images in turn.
            chunk_bytes: room for the cells of the boxes of one chunk.

        Returns:
            [N,D].
        """
        images = prepare_images(self, embeddings, dense, position)
        owners = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(prompts.device)
        chunk = max(1, chunk_bytes // (4 * images.cells[0].numel()))
        parts = [
            mask_tokens(self, images, owners[start : start + chunk], prompts[start : start + chunk])
            for start in range(0, len(prompts), chunk)
        ]
        return torch.cat([prompts.new_zeros(0, prompts.shape[-1]), *parts])


@dataclass(frozen=True)
class DecodedImages:
    """What the decoder needs of B images, computed once and shared by all their boxes."""

    cells: Tensor  # [B,M,D] image embedding plus the dense prompt of "no mask"
    position: Tensor  # [M,D] positional encoding of the grid
    keys: Tensor  # [B,H,M,c] of the first layer's attention from tokens to cells, and its values
    values: Tensor
    queries: Tensor  # [B,H,M,c] of its attention from cells to tokens


def prepare_images(
    decoder: TokenDecoder, embeddings: Tensor, dense: Tensor, position: Tensor
) -> DecodedImages:
    """Projects the image side of the first layer.

    Args:
        embeddings: [B,D,h,w] image embeddings.
        dense: [1,D,h,w] dense prompt embedding without a mask prompt.
        position: [1,D,h,w] dense positional encoding.
    """
    layer: Any = decoder.transformer.layers[0]  # the attributes of torch modules are not typed
    # Contiguous here, once per image, or every matrix product would copy its share again.
    cells = (embeddings + dense).flatten(2).transpose(1, 2).contiguous()
    grid = position.flatten(2).transpose(1, 2)
    to_image, to_token = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    return DecodedImages(
        cells,
        grid[0].contiguous(),
        keys=_heads(to_image, to_image.k_proj(cells + grid)).contiguous(),
        values=_heads(to_image, to_image.v_proj(cells)).contiguous(),
        queries=_heads(to_token, to_token.q_proj(cells + grid)).contiguous(),
    )


def mask_tokens(decoder: TokenDecoder, images: DecodedImages, index: Tensor, prompts: Tensor) -> Tensor:
    """Mask token 0 [N,D] of prompts [N,P,D], each of the image at its `index` [N].

    Equals `hs[:, 1]` inside segment_anything's `MaskDecoder.predict_masks`.
    """
    points = torch.cat([decoder.output.expand(len(prompts), -1, -1), prompts], dim=1)  # [N,T,D]
    transformer: Any = decoder.transformer
    first, *others = transformer.layers
    tokens, cells = _first_layer(first, images, index, points)
    for layer in others:
        tokens, cells = _layer(layer, tokens, cells, points, images.position)
    final = transformer.final_attn_token_to_image
    tokens = tokens + attend_to_cells(final, tokens + points, cells + images.position, cells)
    return transformer.norm_final_attn(tokens)[:, decoder.mask_token]


def attend_to_cells(attention: Attention, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """`attention(q=tokens, k=keys, v=values)` for few tokens [N,T,D], many cells [N,M,D]; gives [N,T,D]."""
    heads, width = attention.num_heads, attention.internal_dim // attention.num_heads
    query = _heads(attention, attention.q_proj(tokens)) / math.sqrt(width)  # [N,H,T,c]
    key_weight = attention.k_proj.weight.view(heads, width, -1)
    query = torch.einsum("nhtc,hcd->nhtd", query, key_weight)
    # The bias of k adds the same to every cell's score, so the softmax removes it.
    weights = (query.flatten(1, 2) @ keys.transpose(1, 2)).softmax(dim=-1)  # [N,H*T,M]
    context = (weights @ values).unflatten(1, (heads, -1))  # [N,H,T,D]
    value_weight = attention.v_proj.weight.view(heads, width, -1)
    out = torch.einsum("nhtd,hcd->nthc", context, value_weight).flatten(2)
    # Softmax rows sum to one, so the bias of v passes through unchanged.
    return attention.out_proj(out + attention.v_proj.bias)


def cells_attend(attention: Attention, cells: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
    """`attention(q=cells, k=tokens, v=values)` for many cells [N,M,D], few tokens [N,T,D]; gives [N,M,D]."""
    heads, width = attention.num_heads, attention.internal_dim // attention.num_heads
    key = _heads(attention, attention.k_proj(tokens)) / math.sqrt(width)  # [N,H,T,c]
    query_weight = attention.q_proj.weight.view(heads, width, -1)
    query_bias = attention.q_proj.bias.view(heads, width)
    scores = torch.einsum("nhtc,hcd->nhtd", key, query_weight).flatten(1, 2) @ cells.transpose(1, 2)
    scores = scores.unflatten(1, (heads, -1)) + torch.einsum("nhtc,hc->nht", key, query_bias)[..., None]
    return _mix_tokens(attention, scores, values)


def _first_layer(
    layer: TwoWayAttentionBlock, images: DecodedImages, index: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    tokens = layer.norm1(layer.self_attn(q=points, k=points, v=points))
    attention = layer.cross_attn_token_to_image
    query = _heads(attention, attention.q_proj(tokens + points))
    scores = query @ images.keys[index].transpose(2, 3) / math.sqrt(query.shape[-1])
    context = scores.softmax(dim=-1) @ images.values[index]  # [N,H,T,c]
    tokens = layer.norm2(tokens + attention.out_proj(context.transpose(1, 2).flatten(2)))
    tokens = layer.norm3(tokens + layer.mlp(tokens))
    attention = layer.cross_attn_image_to_token
    key = _heads(attention, attention.k_proj(tokens + points))
    scores = key @ images.queries[index].transpose(2, 3) / math.sqrt(key.shape[-1])  # [N,H,T,M]
    mixed = _mix_tokens(attention, scores, tokens)
    return tokens, layer.norm4(images.cells[index] + mixed)


def _layer(
    layer: TwoWayAttentionBlock, tokens: Tensor, cells: Tensor, points: Tensor, position: Tensor
) -> tuple[Tensor, Tensor]:
    query = tokens + points
    tokens = layer.norm1(tokens + layer.self_attn(q=query, k=query, v=tokens))
    placed = cells + position
    tokens = layer.norm2(
        tokens + attend_to_cells(layer.cross_attn_token_to_image, tokens + points, placed, cells)
    )
    tokens = layer.norm3(tokens + layer.mlp(tokens))
    mixed = cells_attend(layer.cross_attn_image_to_token, placed, tokens + points, tokens)
    return tokens, layer.norm4(cells + mixed)


def _mix_tokens(attention: Attention, scores: Tensor, tokens: Tensor) -> Tensor:
    """Softmax of scores [N,H,T,M] over the T tokens [N,T,D], values, output projection; gives [N,M,D]."""
    # The cells lie last, so that a softmax over a handful of tokens runs along them.
    weights = scores.softmax(dim=2).flatten(1, 2)
    value = _heads(attention, attention.v_proj(tokens))  # [N,H,T,c]
    out_weight = attention.out_proj.weight.unflatten(1, (attention.num_heads, -1))  # [D,H,c]
    value = torch.einsum("nhtc,dhc->nhtd", value, out_weight).flatten(1, 2)
    return weights.transpose(1, 2) @ value + attention.out_proj.bias


def _heads(attention: Attention, x: Tensor) -> Tensor:
    """[N,T,H*c] to [N,H,T,c]."""
    return x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
