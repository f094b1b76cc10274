"""Small networks of the transformers families, with random weights, and folders that hold them."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import transformers

from regionspot_cache.backbones.hf_sam import TransformersSam
from regionspot_cache.backbones.hf_sam_load import load_transformers_sam
from regionspot_cache.backbones.presets import SamSpec

DECODER = {"hidden_size": 64, "mlp_dim": 96, "iou_head_hidden_dim": 32}
SAM: dict[str, Any] = {
    "model_type": "sam",
    "vision_config": {
        "hidden_size": 32,
        "output_channels": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 128,
        "window_size": 3,
        "global_attn_indexes": [1, 2],
        "num_pos_feats": 32,
    },
    "prompt_encoder_config": {"hidden_size": 64, "image_size": 128},
    "mask_decoder_config": DECODER,
}
HQ = SAM | {"model_type": "sam_hq", "mask_decoder_config": DECODER | {"vit_dim": 32}}
SAM2 = {
    "model_type": "sam2_video",  # as on the hub
    "vision_config": {
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 16,
            "image_size": [128, 128],
            "blocks_per_stage": [1, 2, 2, 1],
            "embed_dim_per_stage": [16, 32, 64, 128],
            "num_attention_heads_per_stage": [1, 2, 4, 8],
            "window_size_per_stage": [8, 4, 4, 2],
            "global_attention_blocks": [4],
        },
        "backbone_channel_list": [128, 64, 32, 16],
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "fpn_hidden_size": 64,
    },
    "prompt_encoder_config": {"hidden_size": 64, "image_size": 128},
    "mask_decoder_config": DECODER,
}
SAM3 = {
    "model_type": "sam3_tracker",
    "vision_config": {
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 32,
            "intermediate_size": 80,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 112,
            "pretrain_image_size": 56,
            "window_size": 4,
            "global_attn_indexes": [2],
        },
        "fpn_hidden_size": 64,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    },
    "prompt_encoder_config": {"hidden_size": 64, "image_size": 112},
    "mask_decoder_config": DECODER,
}
CONFIGS: dict[str, dict[str, Any]] = {"sam": SAM, "sam_hq": HQ, "sam2": SAM2, "sam3": SAM3}
CLASSES = {
    "sam": (transformers.SamConfig, transformers.SamProcessor, transformers.SamImageProcessor),
    "sam_hq": (transformers.SamHQConfig, transformers.SamHQProcessor, transformers.SamImageProcessor),
    "sam2": (transformers.Sam2Config, transformers.Sam2Processor, transformers.Sam2ImageProcessor),
    "sam3": (
        transformers.Sam3TrackerConfig,
        transformers.Sam3TrackerProcessor,
        transformers.Sam3ImageProcessor,
    ),
}


def model_folder(folder: Path, family: str) -> Path:
    """A folder with the small configuration of a family and no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[family]))
    return folder


@lru_cache
def small_transformers_sam(folder: Path, seed: int = 0, **spec: Any) -> TransformersSam:
    """The network of a folder of `model_folder` with seeded random weights."""
    spec = {"precision": "fp32", **spec}
    return load_transformers_sam(SamSpec(model=f"local-dir:{folder}", weights=f"random:{seed}", **spec))
