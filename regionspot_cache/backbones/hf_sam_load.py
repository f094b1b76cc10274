"""SAM families of the transformers library by name: their sizes, their weights, and seeded random ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from regionspot_cache.backbones.hf_load import (
    FOLDER,
    HUB,
    config_values,
    network_of,
    quiet,
    refused,
    source_of,
    transformers_library,
)
from regionspot_cache.backbones.hf_sam import HqSam, PlainSam, Sam2, TransformersSam
from regionspot_cache.backbones.presets import SamSpec
from regionspot_cache.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Family:
    """Classes of one family, those of transformers by name.

    Attributes:
        build: the class of this package.
        longest_side: whether images keep their shape; they are squashed to a square otherwise.
    """

    config: str
    model: str
    processor: str
    build: type[TransformersSam]
    longest_side: bool = False


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published network.

    Attributes:
        family: key of FAMILIES.
        repository: where its weights are, on the Hugging Face hub.
        settings: where its configuration differs from the family's default.
    """

    family: str
    repository: str
    settings: Mapping[str, Any] = field(default_factory=dict)


SAM = Family(
    config="SamConfig", model="SamModel", processor="SamImageProcessor", build=PlainSam, longest_side=True
)
HQ = Family(
    config="SamHQConfig", model="SamHQModel", processor="SamImageProcessor", build=HqSam, longest_side=True
)
SAM2 = Family(config="Sam2Config", model="Sam2Model", processor="Sam2ImageProcessor", build=Sam2)
SAM3 = Family(
    config="Sam3TrackerConfig", model="Sam3TrackerModel", processor="Sam3ImageProcessor", build=Sam2
)
# By the "model_type" of a config.json; the hub keeps SAM 2.1 and 3 as video models that hold those of images.
FAMILIES = {
    "sam": SAM,
    "sam_hq": HQ,
    "sam2": SAM2,
    "sam2_video": SAM2,
    "sam3_tracker": SAM3,
    "sam3_tracker_video": SAM3,
    "sam3_video": SAM3,
}


def _hq(width: int, depth: int, heads: int, global_blocks: tuple[int, ...]) -> dict[str, Any]:
    vision = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "global_attn_indexes": list(global_blocks),
    }
    return {"vision_config": vision, "mask_decoder_config": {"vit_dim": width}}


def _hiera(
    width: int, heads: int, blocks: tuple[int, ...], global_blocks: tuple[int, ...], **others: Any
) -> Any:
    widths = [width * 2**stage for stage in range(4)]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": width,
        "num_attention_heads": heads,
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [heads * 2**stage for stage in range(4)],
        "blocks_per_stage": list(blocks),
        "global_attention_blocks": list(global_blocks),
        **others,
    }
    return {"vision_config": {"backbone_config": backbone, "backbone_channel_list": widths[::-1]}}


PUBLISHED = {
    "sam-hq-vit-b": Published(family="sam_hq", repository="syscv-community/sam-hq-vit-base"),
    "sam-hq-vit-l": Published(
        family="sam_hq",
        repository="syscv-community/sam-hq-vit-large",
        settings=_hq(1024, 24, 16, (5, 11, 17, 23)),
    ),
    "sam-hq-vit-h": Published(
        family="sam_hq",
        repository="syscv-community/sam-hq-vit-huge",
        settings=_hq(1280, 32, 16, (7, 15, 23, 31)),
    ),
    "sam2.1-hiera-tiny": Published(family="sam2", repository="facebook/sam2.1-hiera-tiny"),
    "sam2.1-hiera-small": Published(
        family="sam2",
        repository="facebook/sam2.1-hiera-small",
        settings=_hiera(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    ),
    "sam2.1-hiera-base-plus": Published(
        family="sam2",
        repository="facebook/sam2.1-hiera-base-plus",
        settings=_hiera(
            112, 2, (2, 3, 16, 3), (12, 16, 20), window_positional_embedding_background_size=[14, 14]
        ),
    ),
    "sam2.1-hiera-large": Published(
        family="sam2",
        repository="facebook/sam2.1-hiera-large",
        settings=_hiera(144, 2, (2, 6, 36, 4), (23, 33, 43), window_size_per_stage=[8, 4, 16, 8]),
    ),
    "sam3": Published(family="sam3_tracker", repository="facebook/sam3"),
}


def is_transformers(model: str) -> bool:
    """Whether `SamSpec.model` names a network of the transformers library."""
    return model in PUBLISHED or model.startswith((HUB, FOLDER))


def load_transformers_sam(spec: SamSpec, device: torch.device | str = "cpu") -> TransformersSam:
    """A network of the transformers library.

    Raises:
        UsageError: transformers is not installed, or a spec that makes no sense.
        MissingFileError: a folder or weights that are not here and cannot be fetched.
        InputError: a family that is not known, or weights that do not fit.
    """
    library = transformers_library(f"sam.model = {spec.model}")
    source = source_of(spec.model, PUBLISHED)
    with quiet(library.utils.logging):
        with refused(f"The config.json of {source}"):
            family, config = _family_and_config(library, spec.model, source)
        with refused(f"The network of {source}"):
            model_class, published = getattr(library, family.model), spec.model in PUBLISHED
            network, own = network_of(model_class, config, spec, source, published, random_network)
            side = network.config.prompt_encoder_config.image_size
        with refused(f"The image processor of {source}"):
            processor = _processor(getattr(library, family.processor), family, side, source if own else None)
    return family.build(network, processor, spec, device)


def _family_and_config(library: Any, model: str, source: str) -> tuple[Family, Any]:
    if model in PUBLISHED:
        family = FAMILIES[PUBLISHED[model].family]
        return family, getattr(library, family.config)(**PUBLISHED[model].settings)
    found = config_values(library, source)
    kind = found.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(f"{source} holds a model of type {kind}.", f"One of {', '.join(FAMILIES)}.")
    family = FAMILIES[kind]
    return family, getattr(library, family.config).from_pretrained(source)


def _processor(kind: Any, family: Family, side: int, source: str | None) -> Any:
    """The image processor that comes with the weights, or the family's default."""
    size = {"longest_edge": side} if family.longest_side else {"height": side, "width": side}
    options: dict[str, Any] = {"size": size}
    if family.longest_side:
        options["pad_size"] = {"height": side, "width": side}
    try:
        processor = kind(**options) if source is None else kind.from_pretrained(source, **options)
    except OSError:  # a folder without one
        processor = kind(**options)
    # It takes any values, and fails at the first image.
    pixels = processor(np.zeros((2, 3, 3), np.uint8), input_data_format="channels_last", return_tensors="pt")
    if pixels["pixel_values"].shape != (1, 3, side, side) or not pixels["pixel_values"].isfinite().all():
        raise ValueError(f"it makes {tuple(pixels['pixel_values'].shape)} of an image")
    return processor


def random_network(model_class: Any, config: Any, seed: int) -> Any:
    """A network with seeded random weights; tables and layers that would start at zero are random too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = model_class(config)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1 and not parameter.is_meta and parameter.abs().max() < 1e-6:
                    parameter.normal_(std=0.02)
            # Points and grid share one table of frequencies around 1, as in every published network.
            frequencies = torch.randn_like(network.shared_image_embedding.positional_embedding)
            for part in (network.shared_image_embedding, network.prompt_encoder.shared_embedding):
                part.positional_embedding.copy_(frequencies)
    return network
