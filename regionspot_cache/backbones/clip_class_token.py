"""The image embedding of a ViT that only its class token reaches: the last block computes no other token.

Of a block's 12 N W^2 products for N tokens of width W only the keys and values, 2 N W^2, are needed.
"""

from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor


def image_embedding(visual: Any, batch: Tensor) -> Tensor:
    """What `visual`, the image tower of an open_clip model, gives of [B,3,R,R]: [B,E].

    Towers that pool more than the class token, or have blocks of another kind, run as they are.
    """
    if not _ends_in_class_token(visual):
        return visual(batch)
    *blocks, last = visual.transformer.resblocks
    tokens = visual._embeds(batch)
    for block in blocks:
        tokens = block(tokens)
    normed, token = last.ln_1(tokens), tokens[:, :1]
    attended, _ = last.attn(normed[:, :1], normed, normed, need_weights=False)
    token = token + last.ls_1(attended)
    token = token + last.ls_2(last.mlp(last.ln_2(token)))
    pooled = visual.ln_post(token[:, 0])
    return pooled if visual.proj is None else pooled @ visual.proj


def _ends_in_class_token(visual: Any) -> bool:
    return (
        isinstance(visual, VisionTransformer)
        and visual.pool_type == "tok"
        and visual.attn_pool is None
        and not visual.output_tokens
        and visual.transformer.batch_first
        and type(visual.transformer.resblocks[-1]) is ResidualAttentionBlock
        and isinstance(visual.transformer.resblocks[-1].attn, torch.nn.MultiheadAttention)
    )
