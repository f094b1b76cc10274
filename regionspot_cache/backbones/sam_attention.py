"""Blocks of SAM's image encoder whose attention never has all its weights in memory.

Gives what `segment_anything.modeling.image_encoder.Block` gives, with its modules and weights, but
- makes the weights of a few query rows at a time, where they stay in a core's cache: a global block of 4096
  cells and 12 heads has 805 MB of them,
- writes the relative positions first and lets the matrix product add to them, which saves passes, and
- projects no padding of windows: a padded cell is a row of zeros, so its query, key and value are the biases.
"""

import torch
from segment_anything.modeling.image_encoder import Attention, Block, ImageEncoderViT, get_rel_pos
from torch import Tensor, nn

# Attention weights of one step: what stays in a core's cache, fills a GPU, or is only counted.
STEP_BYTES = {"cpu": 1 << 22, "cuda": 1 << 30, "meta": 1 << 50}


class FrozenBlock(Block):
    """A block that shares the modules of another, so that state dicts keep their names.

    Where gradients are recorded, it is segment_anything's.
    """

    def __init__(self, block: Block) -> None:
        nn.Module.__init__(self)
        self.norm1, self.attn = block.norm1, block.attn
        self.norm2, self.mlp = block.norm2, block.mlp
        self.window_size = block.window_size

    def forward(self, x: Tensor) -> Tensor:
        """Cells [B,H,W,D] to cells of the same shape."""
        if torch.is_grad_enabled():
            return super().forward(x)
        x = x + self.attn.proj(_attend(self.attn, self.norm1(x), self.window_size))
        return x + self.mlp(self.norm2(x))


def freeze_blocks(encoder: ImageEncoderViT) -> None:
    """Replaces the blocks that have relative positions."""
    for i, block in enumerate(encoder.blocks):
        if isinstance(block, Block) and block.attn.use_rel_pos:
            encoder.blocks[i] = FrozenBlock(block)


def _attend(attention: Attention, x: Tensor, window: int) -> Tensor:
    """What the heads give together, before the projection, of cells [B,H,W,D]; `window` 0 is all of them."""
    batch, height, width, dim = x.shape
    h, w = (window, window) if window else (height, width)
    rows, columns = -(-height // h), -(-width // w)
    qkv = _pad(attention.qkv(x), attention.qkv.bias, rows * h, columns * w)
    qkv = qkv.view(batch, rows, h, columns, w, 3, attention.num_heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
    query, key, value = qkv.reshape(3, -1, h * w, qkv.shape[-1])
    out = relative_attention(
        query,
        key,
        value,
        get_rel_pos(h, h, attention.rel_pos_h),
        get_rel_pos(w, w, attention.rel_pos_w),
        attention.scale,
    )
    out = out.view(batch, rows, columns, attention.num_heads, h, w, -1).permute(0, 1, 4, 2, 5, 3, 6)
    return out.reshape(batch, rows * h, columns * w, dim)[:, :height, :width]


def _pad(x: Tensor, value: Tensor | None, height: int, width: int) -> Tensor:
    """[B,H,W,C] with rows and columns of `value` [C] (None: zeros) after its own, [B,height,width,C]."""
    if x.shape[1:3] == (height, width):
        return x
    out = x.new_empty(len(x), height, width, x.shape[-1])
    out[:, : x.shape[1], : x.shape[2]] = x
    for margin in (out[:, x.shape[1] :], out[:, : x.shape[1], x.shape[2] :]):
        margin[:] = 0 if value is None else value
    return out


def relative_attention(
    query: Tensor, key: Tensor, value: Tensor, vertical: Tensor, horizontal: Tensor, scale: float
) -> Tensor:
    """Attention with decomposed relative positions; records no gradient.

    Args:
        query, key, value: [N,h*w,c], one head of one window each.
        vertical: [h,h,c] embeddings of a query's and a key's row.
        horizontal: [w,w,c] of their columns.
        scale: of the dot products of queries and keys.

    Returns:
        [N,h*w,c], in the type of the query.
    """
    count, cells, _ = query.shape
    h, w = len(vertical), len(horizontal)
    grid = query.unflatten(1, (h, w))
    by_row = torch.einsum("nhwc,hkc->nhwk", grid, vertical).reshape(count, cells, h, 1)
    by_column = torch.einsum("nhwc,wkc->nhwk", grid, horizontal).reshape(count, cells, 1, w)
    room = STEP_BYTES.get(query.device.type, STEP_BYTES["cpu"]) // (cells * query.element_size())
    heads, rows = max(1, room // cells), max(1, min(room, cells))
    # Both are written by every step, because fresh memory costs a CPU more than the arithmetic on it.
    scores, weights = query.new_empty(2, min(heads, count), rows, h, w).unbind()
    query, key, out = query * scale, key.transpose(1, 2), torch.empty_like(query)
    for first in range(0, count, heads):
        for start in range(0, cells, rows):
            head = slice(first, first + heads)
            part = head, slice(start, start + rows)
            found = out[part]
            step = slice(len(found)), slice(found.shape[1])
            score, weight = scores[step], weights[step].flatten(2)
            torch.add(by_row[part], by_column[part], out=score)
            score = score.flatten(2).baddbmm_(query[part], key[head])
            torch.softmax(score, dim=-1, out=weight)
            found.copy_(weight @ value[head])
    return out
