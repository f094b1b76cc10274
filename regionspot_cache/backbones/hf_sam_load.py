"""SAM families of the transformers library by name: their sizes, their weights, and seeded random ones."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from regionspot_cache.backbones.assets import published_sams
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


class Family(NamedTuple):
    """`nameConfig` and `nameModel` in transformers, its image processor there, and its class here."""

    name: str
    processor: str
    build: type[TransformersSam]


class Published(NamedTuple):
    """A key of FAMILIES, a repository of the hub, and where the configuration differs from the default."""

    family: str
    repository: str
    settings: Mapping[str, Any] = MappingProxyType({})


_SAM2 = Family("Sam2", "Sam2ImageProcessor", Sam2)
_SAM3 = Family("Sam3Tracker", "Sam3ImageProcessor", Sam2)
# By the "model_type" of a config.json; the hub keeps SAM 2.1 and 3 as video models that hold those of images.
FAMILIES = {
    "sam": Family("Sam", "SamImageProcessor", PlainSam),
    "sam_hq": Family("SamHQ", "SamImageProcessor", HqSam),
    "sam2": _SAM2,
    "sam2_video": _SAM2,
    "sam3_tracker": _SAM3,
    "sam3_tracker_video": _SAM3,
    "sam3_video": _SAM3,
}
PUBLISHED = {name: Published(**found) for name, found in published_sams()["transformers"].items()}


def is_transformers(model: str) -> bool:
    """Whether `SamSpec.model` names a network of the transformers library."""
    return model in PUBLISHED or model.startswith((HUB, FOLDER))


def load_transformers_sam(spec: SamSpec, device: torch.device | str = "cpu") -> TransformersSam:
    """A network of the transformers library; errors as of `load_part`."""
    library = transformers_library(f"sam.model = {spec.model}")
    source = source_of(spec.model, PUBLISHED)
    with quiet(library.utils.logging):
        with refused(f"The config.json of {source}"):
            family, config = _family_and_config(library, spec.model, source)
        with refused(f"The network of {source}"):
            model_class, published = getattr(library, f"{family.name}Model"), spec.model in PUBLISHED
            network, own = network_of(model_class, config, spec, source, published, random_network)
            side = network.config.prompt_encoder_config.image_size
        with refused(f"The image processor of {source}"):
            processor = _processor(getattr(library, family.processor), family, side, source if own else None)
    return family.build(network, processor, spec, device)


def _family_and_config(library: Any, model: str, source: str) -> tuple[Family, Any]:
    if model in PUBLISHED:
        family = FAMILIES[PUBLISHED[model].family]
        return family, getattr(library, f"{family.name}Config")(**PUBLISHED[model].settings)
    kind = config_values(library, source).get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(f"{source} holds a model of type {kind}.", f"One of {', '.join(FAMILIES)}.")
    family = FAMILIES[kind]
    return family, getattr(library, f"{family.name}Config").from_pretrained(source)


def _processor(kind: Any, family: Family, side: int, source: str | None) -> Any:
    """The image processor that comes with the weights, or the family's default."""
    square = {"height": side, "width": side}
    options: dict[str, Any] = {"size": square}
    if issubclass(family.build, PlainSam):
        options = {"size": {"longest_edge": side}, "pad_size": square}
    try:
        processor = kind(**options) if source is None else kind.from_pretrained(source, **options)
    except OSError:  # a folder without one
        processor = kind(**options)
    # It takes any values, and fails at the first image.
    pixels = processor(np.zeros((2, 3, 3), np.uint8), input_data_format="channels_last", return_tensors="pt")
    if pixels["pixel_values"].shape != (1, 3, side, side) or not pixels["pixel_values"].isfinite().all():
        raise ValueError(f"it makes {tuple(pixels['pixel_values'].shape)} of an image")
    if off := [step for step in ("do_resize", "do_rescale", "do_normalize") if not getattr(processor, step)]:
        raise ValueError(f"it has {', '.join(off)} off")
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
