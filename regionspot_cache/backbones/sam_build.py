"""Builds SAM networks of any size from segment_anything's own classes.

A json-able mapping describes a SAM: the keyword arguments of `ImageEncoderViT` ("image_encoder") or of
`TinyVitEncoder` ("tiny_vit"), of `PromptEncoder` ("prompt_encoder"), `TwoWayTransformer` ("transformer") and
`MaskDecoder` ("mask_decoder"), "pixel_mean" and "pixel_std".
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from regionspot_cache.backbones.assets import published_sams
from regionspot_cache.backbones.mobile_sam import TinyVitEncoder
from regionspot_cache.backbones.sam_attention import freeze_blocks

PUBLISHED: dict[str, dict[str, Any]] = published_sams()["segment_anything"]


def build_sam(config: Mapping[str, Any]) -> Sam:
    """A SAM of this config with fresh weights, in training mode."""
    prompt = config["prompt_encoder"]
    sizes: Any = {key: tuple(value) for key, value in prompt.items() if isinstance(value, list)}
    if "tiny_vit" in config:
        encoder: Any = TinyVitEncoder(**config["tiny_vit"])  # has what `Sam` asks of its encoder
    else:
        layer_norm: Any = partial(nn.LayerNorm, eps=1e-6)
        encoder = ImageEncoderViT(**config["image_encoder"], norm_layer=layer_norm)
        freeze_blocks(encoder)
    return Sam(
        encoder,
        PromptEncoder(**prompt | sizes),
        MaskDecoder(**config["mask_decoder"], transformer=TwoWayTransformer(**config["transformer"])),
        pixel_mean=list(config["pixel_mean"]),
        pixel_std=list(config["pixel_std"]),
    )


def random_sam(config: Mapping[str, Any], seed: int) -> Sam:
    """A SAM with seeded random weights; position tables, which start at zero, are random too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = build_sam(config)
        with torch.no_grad():
            for name, parameter in sam.image_encoder.named_parameters():
                if "pos" in name.rsplit(".", 1)[-1] or name.endswith("attention_biases"):
                    parameter.normal_(std=0.02)
    return sam
