"""Builds SAM networks of any size from segment_anything's own classes.

A json-able mapping describes a SAM: the keyword arguments of `ImageEncoderViT` ("image_encoder") or of
`TinyVitEncoder` ("tiny_vit"), of `PromptEncoder` ("prompt_encoder"), `TwoWayTransformer` ("transformer") and
`MaskDecoder` ("mask_decoder"), "pixel_mean" and "pixel_std".
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from regionspot_cache.backbones.mobile_sam import TinyVitEncoder


def published(embed_dim: int, depth: int, num_heads: int, global_blocks: Sequence[int]) -> dict[str, Any]:
    """The config of a published SAM, whose sizes differ in the image encoder only."""
    return {
        "image_encoder": {
            "img_size": 1024,
            "patch_size": 16,
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": num_heads,
            "mlp_ratio": 4.0,
            "out_chans": 256,
            "qkv_bias": True,
            "use_rel_pos": True,
            "window_size": 14,
            "global_attn_indexes": list(global_blocks),
        },
        "prompt_encoder": {
            "embed_dim": 256,
            "image_embedding_size": [64, 64],
            "input_image_size": [1024, 1024],
            "mask_in_chans": 16,
        },
        "transformer": {"depth": 2, "embedding_dim": 256, "mlp_dim": 2048, "num_heads": 8},
        "mask_decoder": {
            "transformer_dim": 256,
            "num_multimask_outputs": 3,
            "iou_head_depth": 3,
            "iou_head_hidden_dim": 256,
        },
        "pixel_mean": [123.675, 116.28, 103.53],
        "pixel_std": [58.395, 57.12, 57.375],
    }


# "Segment Anything" (Kirillov et al., 2023); state-dict keys and shapes are those of its checkpoints.
PUBLISHED = {
    "vit_b": published(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": published(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": published(1280, 32, 16, (7, 15, 23, 31)),
}


def mobile() -> dict[str, Any]:
    """The config of MobileSAM: SAM's prompt encoder and decoder behind TinyViT-5M."""
    shared = {key: part for key, part in PUBLISHED["vit_b"].items() if key != "image_encoder"}
    tiny_vit = {
        "img_size": 1024,
        "embed_dims": [64, 128, 160, 320],
        "depths": [2, 2, 6, 2],
        "num_heads": [2, 4, 5, 10],
        "window_sizes": [7, 7, 14, 7],
    }
    return {"tiny_vit": tiny_vit, **shared}


PUBLISHED["mobile_sam"] = mobile()


def build_sam(config: Mapping[str, Any]) -> Sam:
    """A SAM of this config with fresh weights, in training mode."""
    prompt: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config["prompt_encoder"].items()
    }
    return Sam(
        _image_encoder(config),
        PromptEncoder(**prompt),
        MaskDecoder(**config["mask_decoder"], transformer=TwoWayTransformer(**config["transformer"])),
        pixel_mean=list(config["pixel_mean"]),
        pixel_std=list(config["pixel_std"]),
    )


def _image_encoder(config: Mapping[str, Any]) -> Any:
    """A TinyViT has what `Sam` asks of its encoder, but is none of its class."""
    if "tiny_vit" in config:
        return TinyVitEncoder(**config["tiny_vit"])
    options: dict[str, Any] = config["image_encoder"] | {"norm_layer": partial(nn.LayerNorm, eps=1e-6)}
    return ImageEncoderViT(**options)


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
