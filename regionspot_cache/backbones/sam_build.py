"""Builds SAM networks of any size from segment_anything's own classes."""

from dataclasses import dataclass
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn


@dataclass(frozen=True, kw_only=True)
class SamArchitecture:
    """Sizes of a SAM; the defaults are ViT-B of "Segment Anything" (Kirillov et al., 2023).

    Attributes:
        image_size: side of the square input in pixels.
        patch_size: side of a patch; the embedding has (image_size / patch_size) squared cells.
        embed_dim: width of the image encoder.
        depth: its number of blocks.
        num_heads: its attention heads; must divide embed_dim.
        mlp_ratio: hidden width of its blocks, as a multiple of embed_dim.
        use_rel_pos: relative positions in its attention.
        window_size: cells on a side of an attention window; 0 for global attention everywhere.
        global_attn_indexes: blocks with global attention where window_size is not 0.
        token_dim: channels of the image embedding, of prompts and of mask tokens.
        decoder_depth: blocks of the two-way transformer.
        decoder_heads: its attention heads.
        decoder_mlp_dim: hidden width of its blocks.
        iou_head_hidden_dim: hidden width of the head that predicts mask quality.
    """

    image_size: int = 1024
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    use_rel_pos: bool = True
    window_size: int = 14
    global_attn_indexes: tuple[int, ...] = (2, 5, 8, 11)
    token_dim: int = 256
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_head_hidden_dim: int = 256


ARCHITECTURES = {
    "vit_b": SamArchitecture(),
    "vit_l": SamArchitecture(embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23)),
    "vit_h": SamArchitecture(embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31)),
}


def build_sam(sizes: SamArchitecture) -> Sam:
    """A SAM of these sizes with random weights, in training mode.

    State-dict keys and shapes of "vit_b", "vit_l" and "vit_h" are those of the published checkpoints.
    """
    grid = sizes.image_size // sizes.patch_size
    return Sam(
        image_encoder=_image_encoder(sizes),
        prompt_encoder=PromptEncoder(
            embed_dim=sizes.token_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(sizes.image_size, sizes.image_size),
            mask_in_chans=16,
        ),
        mask_decoder=_mask_decoder(sizes),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )


def _image_encoder(sizes: SamArchitecture) -> ImageEncoderViT:
    return ImageEncoderViT(
        img_size=sizes.image_size,
        patch_size=sizes.patch_size,
        embed_dim=sizes.embed_dim,
        depth=sizes.depth,
        num_heads=sizes.num_heads,
        mlp_ratio=sizes.mlp_ratio,
        out_chans=sizes.token_dim,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=sizes.use_rel_pos,
        window_size=sizes.window_size,
        global_attn_indexes=sizes.global_attn_indexes,
    )


def _mask_decoder(sizes: SamArchitecture) -> MaskDecoder:
    return MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(
            depth=sizes.decoder_depth,
            embedding_dim=sizes.token_dim,
            num_heads=sizes.decoder_heads,
            mlp_dim=sizes.decoder_mlp_dim,
        ),
        transformer_dim=sizes.token_dim,
        iou_head_depth=3,
        iou_head_hidden_dim=sizes.iou_head_hidden_dim,
    )


def random_sam(sizes: SamArchitecture, seed: int) -> Sam:
    """A SAM with seeded random weights; position tables, which start at zero, are random too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = build_sam(sizes)
        with torch.no_grad():
            for name, parameter in sam.image_encoder.named_parameters():
                if "pos" in name.rsplit(".", 1)[-1]:
                    parameter.normal_(std=0.02)
    return sam
