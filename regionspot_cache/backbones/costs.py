"""What frozen networks cost: operations counted on the networks themselves, and the shapes of what they give.

Networks of this package are built without values ("meta" tensors), so no weights are needed and nothing is
computed. A network of the user's own is loaded and run once.

One multiply-add is two operations; only products of matrices and convolutions count.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from regionspot_cache.backbones.load import load_clip, load_sam
from regionspot_cache.backbones.presets import ClipSpec, SamSpec
from regionspot_cache.backbones.registry import own_network


@dataclass(frozen=True, kw_only=True)
class SamCost:
    """10^9 operations an image (what the decoder does once an image included) and a box (without masks),
    the side of the input in pixels, and the width of the token at each position."""

    image_size: int
    image_gflops: float
    box_gflops: float
    token_dims: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class ClipCost:
    """10^9 operations an image, the side of the input in pixels, and the shapes of map and text."""

    image_size: int
    image_gflops: float
    grid: tuple[int, int]
    prefix_tokens: int
    width: int
    text_width: int


def sam_cost(spec: SamSpec) -> SamCost:
    """Counts the SAM side of a spec; errors as of `load_sam`."""
    if own_network("sam", spec.model):
        sam = load_sam(spec)
    else:
        with torch.device("meta"):
            sam = load_sam(replace(spec, weights="random:0"), "meta")
    side = sam.image_size
    embedding, encoder = _counted(lambda: sam.embed(torch.zeros(1, 3, side, side, device=sam.device)))
    boxes = np.array([[0, 0, side // 2, side // 2]] * 2, np.float32)
    none, one, two = (
        _counted(lambda n=n: sam.tokens(embedding, [boxes[:n]], [(side, side)]))[1] for n in range(3)
    )
    return SamCost(
        image_size=side,
        image_gflops=encoder + none,
        box_gflops=two - one,
        token_dims=dict(sam.token_dims),
    )


def clip_cost(spec: ClipSpec) -> ClipCost:
    """Counts the CLIP side of a spec; errors as of `load_clip`."""
    if own_network("clip", spec.model):
        clip = load_clip(spec)
    else:
        clip = load_clip(replace(spec, weights="random:0", precision="fp32"), "meta")
    batch = torch.zeros(1, 3, clip.image_size, clip.image_size, device=clip.device)
    return ClipCost(
        image_size=clip.image_size,
        image_gflops=_counted(lambda: clip.encode_map(batch))[1],
        grid=clip.grid,
        prefix_tokens=clip.prefix_tokens,
        width=clip.map_shape[1],
        text_width=clip.encode_image(batch).shape[1],
    )


def _counted(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and 10^9 operations."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not know the fused layer of PyTorch
    try:
        with FlopCounterMode(display=False) as counter:
            result = work()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return result, counter.get_total_flops() / 1e9
