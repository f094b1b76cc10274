"""TinyViT (Wu et al., 2022) as MobileSAM (Zhang et al., 2023) uses it in the place of SAM's image encoder.

timm's network, but for a last stage that keeps the grid (1024 pixels give 64 x 64 cells), and SAM's neck.
A state dict has the names of the published `mobile_sam.pt`, with the classifier that SAM leaves unused.
"""

import re
from collections.abc import Mapping
from typing import Any

from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import TinyVit
from torch import Tensor, nn

_NAMES = (  # of timm, and as they are published
    ("body.", ""),
    (".conv.", ".c."),
    ("patch_embed.conv1.", "patch_embed.seq.0."),
    ("patch_embed.conv2.", "patch_embed.seq.2."),
    ("head.norm.", "norm_head."),
    ("head.fc.", "head."),
    ("stages.", "layers."),
)


class TinyVitEncoder(nn.Module):
    """Images [B,3,S,S] to SAM's image embeddings [B,out_chans,S/16,S/16].

    Args:
        img_size: side S of the input in pixels, a multiple of 16.
        out_chans: width of the embedding.
        settings: widths, depths, heads and windows of the four stages, as timm's `TinyVit` takes them.
    """

    def __init__(self, *, img_size: int, out_chans: int = 256, **settings: Any) -> None:
        super().__init__()
        self.img_size = img_size
        body: Any = TinyVit(**settings)
        body.stages[-1].downsample.conv2.conv.stride = (1, 1)
        self.body = body
        self.neck = nn.Sequential(
            nn.Conv2d(body.num_features, out_chans, 1, bias=False),
            LayerNorm2d(out_chans),
            nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False),
            LayerNorm2d(out_chans),
        )
        names = {name: _published(name) for name in self.state_dict()}

        def after_saving(_: nn.Module, state: dict[str, Tensor], prefix: str, *_others: Any) -> None:
            _rename(state, prefix, names)

        def before_loading(_: nn.Module, state: dict[str, Tensor], prefix: str, *_others: Any) -> None:
            _rename(state, prefix, {published: name for name, published in names.items()})

        self.register_state_dict_post_hook(after_saving)
        self.register_load_state_dict_pre_hook(before_loading)

    def forward(self, images: Tensor) -> Tensor:
        return self.neck(self.body.stages(self.body.patch_embed(images)))


def _published(name: str) -> str:
    # timm reduces the grid at the start of a stage, the published network at the end of the one before.
    name = re.sub(r"stages\.(\d)\.downsample", lambda found: f"stages.{int(found[1]) - 1}.downsample", name)
    for ours, theirs in _NAMES:
        name = name.replace(ours, theirs)
    return name


def _rename(state: dict[str, Tensor], prefix: str, names: Mapping[str, str]) -> None:
    for old, new in names.items():
        if prefix + old in state:
            state[prefix + new] = state.pop(prefix + old)
