"""The CLIP side: images to maps of patch tokens and to embeddings; all frozen."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from regionspot_cache.backbones.arithmetic import autocast, choose
from regionspot_cache.backbones.clip_build import ClipParts
from regionspot_cache.backbones.clip_text import ClipText
from regionspot_cache.backbones.clip_tower import block_index, tower_shape
from regionspot_cache.backbones.clip_values import require_value_path, value_map
from regionspot_cache.backbones.encoder import Array
from regionspot_cache.backbones.presets import ClipSpec
from regionspot_cache.backbones.weights import state_sha256

VALUES = "values"  # the array of the value-path map
PIL_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class ClipBackbone(ClipText):
    """A frozen CLIP (Radford et al., 2021) of open_clip with a ViT image tower.

    All results are inference tensors on `device`; clone one before training on it.

    Args:
        parts: model, tokenizer and preprocessing of `build_clip`.
        spec: what it is called, its layers, resizing and precision.
        device: where it runs.

    Raises:
        UsageError: the image tower gives no fixed grid of tokens, or has no such layer or no value path.
    """

    def __init__(self, parts: ClipParts, spec: ClipSpec, device: torch.device | str = "cpu") -> None:
        super().__init__(parts, spec.model, device)
        self.spec = spec
        self._shape = tower_shape(parts.model.visual, spec.model)
        self.blocks = tuple(block_index(layer, self._shape) for layer in spec.layers)
        if spec.values:
            require_value_path(parts.model.visual, spec.model)
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
        """Factor of cosine similarities, about 100 for trained models.

        Models trained with a sigmoid (SigLIP) also have a bias. It adds the same to every class, so the
        softmax over classes removes it.
        """
        return float(self.model.logit_scale.exp())

    def fingerprint(self) -> dict[str, Any]:
        """All that decides the values of the maps, json-able; the same on every machine."""
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
        """Squashes the whole image to a square and normalises it; no crop, so that no region is lost.

        Args:
            image: uint8 [H,W,3] RGB.

        Returns:
            float32 [3,R,R] on the CPU.
        """
        return self.squash(image, self.resize)

    def squash(self, image: np.ndarray, resize: str) -> Tensor:
        """As `preprocess`, by another way of resizing than that of the spec; see `ClipSpec`."""
        side = (self.image_size, self.image_size)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.parts.mean, self.parts.std))
        if resize == "bilinear-noantialias":
            pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
            squashed = F.interpolate(pixels, side, mode="bilinear", align_corners=False)[0]
        else:
            squashed = Image.fromarray(image).resize(side, PIL_FILTERS[resize])
            squashed = torch.from_numpy(np.array(squashed)).permute(2, 0, 1).float()
        return (squashed / 255 - mean) / std

    @torch.inference_mode()
    def encode(self, batch: Tensor, boxes: Any = None, sizes: Any = None) -> dict[str, Tensor]:
        """The arrays, float32 [B,N,C] by name, of inputs [B,3,R,R]; boxes do not matter.

        Tokens of maps are class or prefix tokens first, then the grid row by row.
        """
        before_last = self._shape.blocks - 2  # whose output the value path takes
        wanted = sorted({*self.blocks, before_last} if self.spec.values else {*self.blocks})
        with autocast(self.precision, self.device):
            found = self.model.visual.forward_intermediates(
                batch.to(self.device, non_blocking=True),
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
            features = self.model.encode_image(batch.to(self.device, non_blocking=True))
        return features.float()
