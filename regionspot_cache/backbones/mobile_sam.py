"""TinyViT (Wu et al., 2022) as MobileSAM (Zhang et al., 2023) uses it in the place of SAM's image encoder.

A stem of two strided convolutions, one stage of inverted bottlenecks, three of windowed attention. Stages end
in a reduction of 2, 2 and 1, so that 1024 pixels give a grid of 64 x 64, and SAM's neck makes 256 channels of
it. Names of the parameters are those of the published `mobile_sam.pt`, with the classifier that SAM leaves
unused.
"""

from collections.abc import Sequence

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

REDUCTIONS = (2, 2, 1)
EXPANSION = 4


class TinyVitEncoder(nn.Module):
    """Images [B,3,S,S] to SAM's image embeddings [B,D,S/16,S/16].

    Args:
        img_size: side S of the input in pixels, a multiple of 16.
        embed_dims: width of each of the four stages.
        depths: blocks of each stage.
        num_heads: attention heads of each stage; the first has none.
        window_sizes: side of the attention windows of each stage, in cells.
        out_chans: width D of the embedding.
        num_classes: of the unused classifier; 1000 in the published weights.
    """

    def __init__(
        self,
        *,
        img_size: int,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_sizes: Sequence[int],
        out_chans: int = 256,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.img_size = img_size
        self.patch_embed = _Stem(embed_dims[0])
        following = (*zip(embed_dims[1:], REDUCTIONS, strict=True), None)
        self.layers = nn.ModuleList()
        for i, (dim, depth, after) in enumerate(zip(embed_dims, depths, following, strict=True)):
            heads, window = num_heads[i], window_sizes[i]
            blocks: list[nn.Module] = [
                _AttentionBlock(dim, heads, window) if i else _InvertedBottleneck(dim) for _ in range(depth)
            ]
            self.layers.append(_Stage(blocks, _Reduction(dim, *after) if after else None))
        self.norm_head = nn.LayerNorm(embed_dims[-1])
        self.head = nn.Linear(embed_dims[-1], num_classes)
        self.neck = nn.Sequential(
            nn.Conv2d(embed_dims[-1], out_chans, 1, bias=False),
            LayerNorm2d(out_chans),
            nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False),
            LayerNorm2d(out_chans),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)
        for layer in self.layers:
            x = layer(x)
        return self.neck(x)


class _ConvNorm(nn.Sequential):
    """Convolution and batch norm, named "c" and "bn"."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = kernel // 2
        self.add_module("c", nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(outputs))


class _Stem(nn.Module):
    """[B,3,S,S] to [B,C,S/4,S/4]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(_ConvNorm(3, dim // 2, 3, 2), nn.GELU(), _ConvNorm(dim // 2, dim, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class _Stage(nn.Module):
    def __init__(self, blocks: list[nn.Module], reduction: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = reduction

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.downsample(x) if self.downsample is not None else x


class _InvertedBottleneck(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        wide = EXPANSION * dim
        self.conv1 = _ConvNorm(dim, wide)
        self.conv2 = _ConvNorm(wide, wide, 3, groups=wide)
        self.conv3 = _ConvNorm(wide, dim)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(x + self.conv3(inner))


class _Reduction(nn.Module):
    """To the width of the next stage, on a grid smaller by `stride`."""

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(dim, out_dim)
        self.conv2 = _ConvNorm(out_dim, out_dim, 3, stride, groups=out_dim)
        self.conv3 = _ConvNorm(out_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class _AttentionBlock(nn.Module):
    """Attention in windows, a depthwise convolution, an MLP."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = _BiasedAttention(dim, heads, window)
        self.mlp = _Mlp(dim)
        self.local_conv = _ConvNorm(dim, dim, 3, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.local_conv(x)
        return x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _attend(self, x: Tensor) -> Tensor:
        """[B,h,w,C]; zeros fill the last windows and take part in attention, as in training."""
        batch, height, width, dim = x.shape
        side = self.window
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        windows = x.view(batch, rows, side, columns, side, dim).transpose(2, 3).reshape(-1, side * side, dim)
        windows = self.attn(windows).view(batch, rows, columns, side, side, dim)
        return windows.transpose(2, 3).reshape(batch, rows * side, columns * side, dim)[:, :height, :width]


class _BiasedAttention(nn.Module):
    """Self-attention in a window; one learned bias a head for each absolute offset (rows, columns)."""

    bias_index: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        # Seen from the first cell, every offset occurs once, row by row: that is the order of the biases.
        row, column = (axis.flatten() for axis in torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij"))
        rows, columns = ((axis[:, None] - axis[None]).abs() for axis in (row, column))
        self.register_buffer("bias_index", rows * window + columns, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        count, cells, dim = x.shape
        # Each head has its query, key and value side by side.
        parts = self.qkv(self.norm(x)).view(count, cells, self.heads, 3, dim // self.heads)
        query, key, value = (part.transpose(1, 2) for part in parts.unbind(3))
        bias = self.attention_biases[:, self.bias_index].to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(mixed.transpose(1, 2).reshape(count, cells, dim))


class _Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, EXPANSION * dim)
        self.fc2 = nn.Linear(EXPANSION * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))
