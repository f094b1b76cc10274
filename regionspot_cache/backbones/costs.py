"""What frozen networks cost: operations counted on the networks themselves, and the arrays that they give.

Networks of this package are built without values ("meta" tensors), so no weights are needed and nothing is
computed. A network of the user's own is loaded and run.

One multiply-add is two operations; only products of matrices and convolutions count.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from regionspot_cache.backbones.clip import ClipBackbone
from regionspot_cache.backbones.encoder import Array, Encoder
from regionspot_cache.backbones.load import load_part
from regionspot_cache.backbones.presets import ClipSpec, NetworkSpec, RegionClipSpec, SamSpec, Tipsv2Spec
from regionspot_cache.backbones.sam_base import FrozenSam


@dataclass(frozen=True, kw_only=True)
class Cost:
    """10^9 operations an image without boxes and a box, the input's sides in pixels, and the arrays."""

    input_size: tuple[int, int]
    image_gflops: float
    box_gflops: float
    arrays: dict[str, Array]


def without_values(spec: NetworkSpec) -> Encoder:
    """The network with shapes but without weights; errors as of `load_part`."""
    spec = replace(spec, compile="never")
    if isinstance(spec, SamSpec):
        with torch.device("meta"):
            return load_part(replace(spec, weights="random:0"), "meta")
    if isinstance(spec, ClipSpec | RegionClipSpec | Tipsv2Spec):
        return load_part(replace(spec, weights="random:0", precision="fp32"), "meta")
    return load_part(spec)


def network_cost(spec: NetworkSpec) -> Cost:
    """Counts a network; errors as of `load_part`."""
    network = without_values(spec)
    if isinstance(network, FrozenSam | ClipBackbone):
        shape: tuple[int, ...] = (3, network.image_size, network.image_size)
    else:
        shape = tuple(network.preprocess(np.zeros((256, 256, 3), np.uint8)).shape)
    batch = torch.zeros(1, *shape, device=network.device)
    boxes = np.array([[0, 0, 128, 128]] * 2, np.float32)
    none, both = (_counted(lambda n=n: network.encode(batch, [boxes[:n]], [(256, 256)])) for n in (0, 2))
    return Cost(
        input_size=(shape[-2], shape[-1]),
        image_gflops=none,
        box_gflops=(both - none) / 2,
        arrays=dict(network.arrays),
    )


def _counted(work: Callable[[], Any]) -> float:
    """10^9 operations."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not know the fused layer of PyTorch
    try:
        # SAM's attention adds its scores to the relative positions where these lie.
        in_place = {torch.ops.aten.baddbmm_: _product_flops}
        with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
            work()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() / 1e9


def _product_flops(_: Any, one: tuple[int, ...], other: tuple[int, ...], **__: Any) -> int:
    """Operations of a sum with the products of matrices [b,m,k] and [b,k,n]."""
    return 2 * one[0] * one[1] * one[2] * other[2]
