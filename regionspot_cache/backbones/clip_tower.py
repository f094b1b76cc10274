"""Which image towers of open_clip give a map, and of what shape."""

from typing import Any, NamedTuple

from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer

from regionspot_cache.errors import UsageError


class TowerShape(NamedTuple):
    """The tokens of an image tower."""

    grid: tuple[int, int]  # rows, columns of patch tokens
    prefix: int  # tokens before them: the class token, or none
    width: int  # channels
    blocks: int


def tower_shape(visual: Any, name: str) -> TowerShape:
    """The shape of `model.visual` of an open_clip model, which an error calls `name`.

    Raises:
        UsageError: convolutional towers (ResNet, ConvNeXt), towers of several resolutions (Swin), and NaFlex,
            whose number of tokens varies with the image.
    """
    if isinstance(visual, VisionTransformer):
        inner = visual.transformer
        return TowerShape(grid=visual.grid_size, prefix=1, width=inner.width, blocks=inner.layers)
    trunk: Any = visual.trunk if isinstance(visual, TimmModel) else visual
    grid = getattr(getattr(trunk, "patch_embed", None), "grid_size", None)
    prefix = getattr(trunk, "num_prefix_tokens", None)
    if grid is None or prefix is None or "NaFlex" in type(trunk).__name__:
        raise UsageError(
            f"The image tower of {name} ({type(trunk).__name__}) gives no fixed grid of patch tokens.",
            "A plain ViT tower: not a ResNet, ConvNeXt, Swin or NaFlex one.",
            "--set clip.model=ViT-B-16-quickgelu",
        )
    return TowerShape(grid=tuple(grid), prefix=prefix, width=trunk.embed_dim, blocks=len(trunk.blocks))


def block_index(layer: int, shape: TowerShape) -> int:
    """The index from 0 of a block counted from the front, or from the back if negative. Raises UsageError."""
    if not -shape.blocks <= layer < shape.blocks:
        raise UsageError(
            f"layers: {layer}, but the tower has {shape.blocks} blocks.",
            f"{-shape.blocks} to {shape.blocks - 1}; -1 is the last.",
        )
    return layer % shape.blocks
