"""The CLIP side: images to maps of patch tokens and to embeddings; all frozen."""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from PIL import Image
from torch import Tensor

from regionspot_cache.backbones.arithmetic import autocast, choose
from regionspot_cache.backbones.clip_attention import freeze_attention
from regionspot_cache.backbones.clip_build import ClipParts
from regionspot_cache.backbones.clip_class_token import image_embedding
from regionspot_cache.backbones.clip_text import ClipText
from regionspot_cache.backbones.clip_values import require_value_path, value_map
from regionspot_cache.backbones.encoder import Array
from regionspot_cache.backbones.pixels import by_pillow
from regionspot_cache.backbones.presets import ClipSpec
from regionspot_cache.backbones.weights import state_sha256
from regionspot_cache.errors import UsageError

VALUES = "values"  # the array of the value-path map
PIL_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class ClipBackbone(ClipText):
    """A frozen CLIP (Radford et al., 2021) of open_clip with a ViT image tower, from `build_clip`.

    All results are inference tensors on `device`; clone one before training on it.

    Raises:
        UsageError: the image tower gives no fixed grid of tokens, or has no such layer or no value path.
    """

    def __init__(self, parts: ClipParts, spec: ClipSpec, device: torch.device | str = "cpu") -> None:
        super().__init__(parts, spec.model, device)
        self.spec = spec
        self._shape = _tower_shape(parts.model.visual, spec.model)
        self.blocks = tuple(_block_index(layer, self._shape) for layer in spec.layers)
        if spec.values:
            require_value_path(parts.model.visual, spec.model)
        freeze_attention(parts.model.visual)
        self.precision = choose(spec.precision, self.device).arithmetic
        self.resize = parts.interpolation if spec.resize == "auto" else spec.resize

    @cached_property
    def image_size(self) -> int:
        """Side R of the network's input in pixels."""
        size = self.model.visual.image_size
        return int(size if isinstance(size, int) else size[0])

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """A map for every layer, before the final norm and not projected; and the value-path map."""
        patches = self.grid[0] * self.grid[1]
        shape = (self.prefix_tokens + patches, self._shape.width)
        maps = {name: Array(shape=shape, grid=self.grid) for name in self._map_names}
        if not self.spec.values:
            return maps
        return {**maps, VALUES: Array(shape=(patches, int(self.model.visual.output_dim)), grid=self.grid)}

    @property
    def _map_names(self) -> list[str]:
        return ["map", *(f"map_{block}" for block in self.blocks[1:])]

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the grid: 1 for the class token, 0 for towers without one (SigLIP)."""
        return self._shape.prefix

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patch tokens."""
        return self._shape.grid

    @cached_property
    def _image_sha256(self) -> str:
        return state_sha256(self.model.visual.state_dict())

    @property
    def logit_scale(self) -> float:
        """As of `TextEncoder`."""
        # Models trained with a sigmoid (SigLIP) also have a bias, which the softmax over classes removes.
        return float(self.model.logit_scale.exp())

    def fingerprint(self) -> dict[str, Any]:
        """As of `Encoder`."""
        return {
            "library": "open_clip",
            "model": self.name,
            "weights_sha256": self._image_sha256,
            "quick_gelu": self.parts.quick_gelu,
            "image_size": self.image_size,
            "preprocess": f"squash, {self.resize}",
            "mean": list(self.parts.mean),
            "std": list(self.parts.std),
            "map_block": self.blocks[0],  # other maps are named by their blocks
            "tokens": f"{self.prefix_tokens} prefix first, before the final norm, not projected",
            "precision": self.precision,
        }

    def preprocess(self, image: np.ndarray) -> Tensor:
        """The whole image, uint8 [H,W,3], squashed to [3,R,R], so no region is lost: pixels uint8, or
        normalised float32 where the spec says "bilinear-noantialias", which gives no whole numbers."""
        return self.squash(image, self.resize)

    def squash(self, image: np.ndarray, resize: str) -> Tensor:
        """As `preprocess`, by another way of resizing than that of the spec; see `ClipSpec`."""
        side = (self.image_size, self.image_size)
        if resize != "bilinear-noantialias":
            return by_pillow(image, side, PIL_FILTERS[resize])
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.parts.mean, self.parts.std))
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
        squashed = F.interpolate(pixels, side, mode="bilinear", align_corners=False)[0]
        return (squashed / 255 - mean) / std

    @torch.inference_mode()
    def encode(self, batch: Tensor, boxes: Any = None, sizes: Any = None) -> dict[str, Tensor]:
        """The arrays, float32 [B,N,C] by name, of inputs [B,3,R,R]; boxes do not matter.

        Tokens of maps are class or prefix tokens first, then the grid row by row.
        """
        with autocast(self.precision, self.device):
            return self.image_network(self.normalise(batch))

    def image_network(self, batch: Tensor) -> dict[str, Tensor]:
        """As `encode`, of normalised inputs."""
        before_last = self._shape.blocks - 2  # whose output the value path takes
        wanted = sorted({*self.blocks, before_last} if self.spec.values else {*self.blocks})
        found = self.model.visual.forward_intermediates(
            batch,
            indices=wanted,
            stop_early=True,
            intermediates_only=True,
            normalize_intermediates=False,
            output_fmt="NLC",
            output_extra_tokens=self.prefix_tokens > 0,  # some timm towers fail when asked for none
        )
        patches = dict(zip(wanted, found["image_intermediates"], strict=True))
        values = value_map(self.model.visual, patches[before_last]) if self.spec.values else None
        prefixes = found.get("image_intermediates_prefix") or [x[:, :0] for x in patches.values()]
        prefix_of = dict(zip(wanted, prefixes, strict=True))
        maps = {
            name: torch.cat([prefix_of[block], patches[block]], dim=1).float()
            for name, block in zip(self._map_names, self.blocks, strict=True)
        }
        return maps if values is None else {**maps, VALUES: values.float()}

    @torch.inference_mode()
    def encode_image(self, batch: Tensor) -> Tensor:
        """open_clip's image embedding [B,E] of [B,3,R,R], float32, not normalised."""
        with autocast(self.precision, self.device):
            features = image_embedding(self.model.visual, self.normalise(batch))
        return features.float()


class _TowerShape(NamedTuple):
    """The tokens of an image tower."""

    grid: tuple[int, int]  # rows, columns of patch tokens
    prefix: int  # tokens before them: the class token, or none
    width: int  # channels
    blocks: int


def _tower_shape(visual: Any, name: str) -> _TowerShape:
    """The shape of `model.visual` of an open_clip model, which an error calls `name`.

    Raises:
        UsageError: convolutional towers (ResNet, ConvNeXt), towers of several resolutions (Swin), and NaFlex,
            whose number of tokens varies with the image.
    """
    if isinstance(visual, VisionTransformer):
        inner = visual.transformer
        return _TowerShape(grid=visual.grid_size, prefix=1, width=inner.width, blocks=inner.layers)
    trunk: Any = visual.trunk if isinstance(visual, TimmModel) else visual
    grid = getattr(getattr(trunk, "patch_embed", None), "grid_size", None)
    prefix = getattr(trunk, "num_prefix_tokens", None)
    if grid is None or prefix is None or "NaFlex" in type(trunk).__name__:
        raise UsageError(
            f"The image tower of {name} ({type(trunk).__name__}) gives no fixed grid of patch tokens.",
            "A plain ViT tower: not a ResNet, ConvNeXt, Swin or NaFlex one.",
            "--set clip.model=ViT-B-16-quickgelu",
        )
    return _TowerShape(grid=tuple(grid), prefix=prefix, width=trunk.embed_dim, blocks=len(trunk.blocks))


def _block_index(layer: int, shape: _TowerShape) -> int:
    """The index from 0 of a block counted from the front, or from the back if negative. Raises UsageError."""
    if not -shape.blocks <= layer < shape.blocks:
        raise UsageError(
            f"layers: {layer}, but the tower has {shape.blocks} blocks.",
            f"{-shape.blocks} to {shape.blocks - 1}; -1 is the last.",
        )
    return layer % shape.blocks
