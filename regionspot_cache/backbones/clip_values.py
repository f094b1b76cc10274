"""The value path of a ViT: patch embeddings in the space of texts, without crops and without training.

In the last block, attention is replaced by its value and output projections (Zhou et al., 2022, "Extract Free
Dense Labels from CLIP"); the residual and the MLP stay, as FG-CLIP's dense features have them. Each patch
then passes the final norm and the projection of the class token.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.transformer import VisionTransformer
from torch import Tensor
from torchvision.ops import roi_align

from regionspot_cache.errors import UsageError


def require_value_path(visual: Any, name: str) -> None:
    """Refuses towers without a meaningful value path.

    Args:
        visual: `model.visual` of an open_clip model.
        name: the model's name, for the error.

    Raises:
        UsageError: not open_clip's own ViT, or one block only, or a tower whose patches are pooled by another
            attention before the projection (SigLIP, CoCa), so that single patches are not in the space of
            texts.
    """
    pooled_by_attention = getattr(visual, "attn_pool", None) is not None or _timm_pool(visual) == "map"
    if pooled_by_attention:
        reason = "its patches reach the space of texts only through the attention that pools them"
    elif not isinstance(visual, VisionTransformer):
        reason = f"its tower is a {type(getattr(visual, 'trunk', visual)).__name__}"
    elif len(visual.transformer.resblocks) < 2:
        reason = "it has one block"
    else:
        return
    raise UsageError(
        f"{name} has no value path: {reason}.",
        "A plain ViT of open_clip with a class token, such as ViT-B-16-quickgelu.",
        "--set parts.clip.values=false, or another model",
    )


def value_map(visual: VisionTransformer, before_last: Tensor) -> Tensor:
    """Patch embeddings [B,N,E], not normalised.

    Args:
        visual: a tower that `require_value_path` accepts.
        before_last: [B,N,W], patch tokens that the last block takes.
    """
    block: Any = visual.transformer.resblocks[-1]  # open_clip's classes carry no types
    width = before_last.shape[-1]
    attention = block.attn
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[2 * width :]
    values = F.linear(block.ln_1(before_last), attention.in_proj_weight[2 * width :], bias)
    x = before_last + block.ls_1(attention.out_proj(values))
    x = visual.ln_post(x + block.ls_2(block.mlp(block.ln_2(x))))
    return x if visual.proj is None else x @ visual.proj


def pool_boxes(
    values: Tensor, grid: tuple[int, int], boxes: NDArray[np.float32], size: tuple[int, int]
) -> Tensor:
    """The mean [N, E] of a map [rows * columns, E] in boxes [N, 4] xyxy of an image of (height, width)."""
    rows, columns = grid
    scale = np.array([columns / size[1], rows / size[0]] * 2, np.float32)
    cells = torch.from_numpy(boxes * scale).to(values.device)
    image_map = values.T.reshape(1, -1, rows, columns).float()
    return roi_align(image_map, [cells], (1, 1), spatial_scale=1.0, sampling_ratio=-1, aligned=True)[
        :, :, 0, 0
    ]


def _timm_pool(visual: Any) -> str:
    return str(getattr(getattr(visual, "trunk", None), "global_pool", ""))
