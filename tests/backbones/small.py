"""Networks small enough for a test, with random weights, of the classes that full-size ones are made of."""

import copy
from dataclasses import replace
from functools import lru_cache

import numpy as np
import open_clip
import torch

from regionspot_cache.backbones.clip import ClipBackbone
from regionspot_cache.backbones.clip_build import ClipParts
from regionspot_cache.backbones.presets import ClipSpec, RegionClipSpec, SamSpec
from regionspot_cache.backbones.regionclip import RegionClip
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
RESNET = {"image_size": 96, "layers": [1, 1, 2, 1], "width": 16}
VISION = {"image_size": 48, "patch_size": 16, "width": 32, "layers": 3, "head_width": 16}

PARTS = ClipParts(
    model=None,
    tokenizer=lambda texts: torch.zeros(len(texts), 77, dtype=torch.long),
    tokenizer_id="test",
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.4),
    interpolation="bicubic",
    quick_gelu=False,
)


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
    parts = replace(PARTS, model=model, tokenizer=tokenizer())
    return ClipBackbone(parts, replace(ClipSpec(model="small", precision="fp32"), **spec))


def small_regionclip(seed: int = 0, **spec: object) -> RegionClip:
    """A CLIP ResNet of 96 pixels, which takes boxes of 6 x 6 cells, with random statistics of its norms."""
    model = small_clip_model(RESNET, seed)
    parts = replace(PARTS, model=model, tokenizer=tokenizer(), interpolation="bilinear")
    defaults = {"model": "small", "short_side": 96, "long_side": 200}
    return RegionClip(parts, RegionClipSpec(**{**defaults, **spec}))


def small_clip_model(vision: dict, seed: int = 0) -> open_clip.CLIP:
    """open_clip's CLIP in evaluation, with random statistics where it has BatchNorm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=TEXT)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise, uint8 [height,width,3]: the hardest input for resizing."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_boxes(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """float32 [count,4] xyxy inside the image."""
    rng = np.random.default_rng(seed)
    corner, extent = rng.uniform(0, 0.6, (count, 2)), rng.uniform(0.05, 0.4, (count, 2))
    unit = np.concatenate([corner, corner + extent], axis=1)
    return (unit * [width, height, width, height]).astype(np.float32)
