"""Networks small enough for a test, with random weights, of the classes that full-size ones are made of."""

import copy
from dataclasses import replace
from functools import lru_cache

import numpy as np
import open_clip
import torch

from regionspot_cache.backbones.clip import ClipBackbone
from regionspot_cache.backbones.clip_build import ClipParts
from regionspot_cache.backbones.presets import ClipSpec, SamSpec
from regionspot_cache.backbones.sam import SamBackbone
from regionspot_cache.backbones.sam_build import PUBLISHED, random_sam

SAM_CONFIG = copy.deepcopy(PUBLISHED["vit_b"])
SAM_CONFIG["image_encoder"] |= {
    "img_size": 128,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 2,
    "window_size": 3,
    "global_attn_indexes": [2],
    "out_chans": 64,
}
SAM_CONFIG["prompt_encoder"] |= {
    "embed_dim": 64,
    "image_embedding_size": [8, 8],
    "input_image_size": [128, 128],
}
SAM_CONFIG["transformer"] |= {"embedding_dim": 64, "mlp_dim": 96}
SAM_CONFIG["mask_decoder"] |= {"transformer_dim": 64, "iou_head_hidden_dim": 32}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION = {"image_size": 48, "patch_size": 16, "width": 32, "layers": 3, "head_width": 16}


@lru_cache(maxsize=1)
def tokenizer() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer()


def small_sam(seed: int = 0, **spec: object) -> SamBackbone:
    """A SAM of 128 pixels with windows, relative positions and random position tables."""
    return SamBackbone(
        random_sam(SAM_CONFIG, seed), SAM_CONFIG, replace(SamSpec(model="packaged", precision="fp32"), **spec)
    )


def small_clip(seed: int = 0, vision: dict | None = None, **spec: object) -> ClipBackbone:
    """A CLIP of 48 pixels (3 x 3 patches) by default; `vision` replaces its image tower."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build = open_clip.CustomTextCLIP if vision else open_clip.CLIP
        model = build(embed_dim=24, vision_cfg=vision or VISION, text_cfg=TEXT)
    parts = ClipParts(
        model=model,
        tokenizer=tokenizer(),
        tokenizer_id="test",
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        interpolation="bicubic",
        quick_gelu=False,
    )
    return ClipBackbone(parts, replace(ClipSpec(model="small", precision="fp32"), **spec))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise, uint8 [height,width,3]: the hardest input for resizing."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_boxes(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """float32 [count,4] xyxy inside the image."""
    rng = np.random.default_rng(seed)
    corner, extent = rng.uniform(0, 0.6, (count, 2)), rng.uniform(0.05, 0.4, (count, 2))
    unit = np.concatenate([corner, corner + extent], axis=1)
    return (unit * [width, height, width, height]).astype(np.float32)
