"""SAM families of the transformers library by name: their sizes, their weights, and seeded random ones."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from regionspot_cache.backbones.hf_sam import HqSam, Sam2, TransformersSam
from regionspot_cache.backbones.presets import SamSpec
from regionspot_cache.backbones.weights import random_seed, read_state
from regionspot_cache.errors import InputError, MissingFileError, UsageError

HUB, FOLDER = "hf-hub:", "local-dir:"


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


HQ = Family(
    config="SamHQConfig", model="SamHQModel", processor="SamImageProcessor", build=HqSam, longest_side=True
)
SAM2 = Family(config="Sam2Config", model="Sam2Model", processor="Sam2ImageProcessor", build=Sam2)
SAM3 = Family(
    config="Sam3TrackerConfig", model="Sam3TrackerModel", processor="Sam3ImageProcessor", build=Sam2
)
# By the "model_type" of a config.json; the hub keeps SAM 2.1 and 3 as video models that hold those of images.
FAMILIES = {
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
    library = _library(spec.model)
    source = _source(spec.model)
    with _quiet(library.utils.logging):
        family, config = _family_and_config(library, spec.model, source)
        model_class = getattr(library, family.model)
        network, own = _network(model_class, config, spec, source)
        side = network.config.prompt_encoder_config.image_size
        processor = _processor(getattr(library, family.processor), family, side, source if own else None)
    return family.build(network, processor, spec, device)


def _library(model: str) -> Any:
    try:
        import transformers
    except ImportError:
        raise UsageError(
            f"sam.model = {model} needs the transformers library.",
            "transformers 5 or newer.",
            "uv pip install transformers",
        ) from None
    return transformers


def _source(model: str) -> str:
    """A repository of the hub or a folder."""
    if model.startswith(FOLDER):
        folder = Path(model.removeprefix(FOLDER))
        if not (folder / "config.json").is_file():
            raise MissingFileError(
                f"No config.json in {folder}.", "A folder of a transformers model.", f"ls {folder}"
            )
        return str(folder)
    return PUBLISHED[model].repository if model in PUBLISHED else model.removeprefix(HUB)


def _family_and_config(library: Any, model: str, source: str) -> tuple[Family, Any]:
    if model in PUBLISHED:
        family = FAMILIES[PUBLISHED[model].family]
        return family, getattr(library, family.config)(**PUBLISHED[model].settings)
    try:
        found, _ = library.PreTrainedConfig.get_config_dict(source)
    except (OSError, ValueError) as error:
        raise _missing(source, error) from None
    kind = found.get("model_type") if isinstance(found, dict) else None
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(f"{source} holds a model of type {kind}.", f"One of {', '.join(FAMILIES)}.")
    family = FAMILIES[kind]
    try:
        return family, getattr(library, family.config).from_pretrained(source)
    except Exception as error:  # every version of transformers refuses wrong values in its own way
        detail = " ".join(str(error).split())[:200]
        raise InputError(
            f"The config.json of {source} is none of a {kind}: {detail}",
            "The file as it was published.",
            "Fetch it again.",
        ) from None


def _network(model_class: Any, config: Any, spec: SamSpec, source: str) -> tuple[Any, bool]:
    """The network, and whether its weights are those of `source`."""
    seed = random_seed(spec.weights)
    if seed is not None:
        return random_network(model_class, config, seed), False
    own = "official" if spec.model in PUBLISHED else "included"
    if spec.weights == own:
        return _loaded(model_class, source, f"sam.model = {spec.model}", use_safetensors=True), True
    if spec.weights in ("official", "included", "packaged"):
        raise UsageError(
            f"There are no {spec.weights} weights of {spec.model}.", f"weights: {own}, a path or random:SEED."
        )
    state = read_state(Path(spec.weights))
    source_text = f"sam.weights = {spec.weights}"
    return _loaded(model_class, None, source_text, config=config, state_dict=state), False


def _loaded(model_class: Any, source: str | None, text: str, **options: Any) -> Any:
    """Loads every tensor: transformers would draw missing ones at random and skip what is left over."""
    try:
        network, report = model_class.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except OSError as error:
        raise _missing(source, error) from None
    parts = {name for name, _ in network.named_children()}
    differing = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    # What belongs to no part of it, such as the memory of a video model, is not needed.
    differing |= {key for key in report["unexpected_keys"] if key.partition(".")[0] in parts}
    if differing:
        raise InputError(
            f"{text} does not fit the network: {len(differing)} tensors differ, first {min(differing)}.",
            f"{len(network.state_dict())} tensors of the same names and shapes.",
            "Choose the model that these weights were trained for.",
        )
    return network


def _processor(kind: Any, family: Family, side: int, source: str | None) -> Any:
    """The image processor that comes with the weights, or the family's default."""
    size = {"longest_edge": side} if family.longest_side else {"height": side, "width": side}
    options: dict[str, Any] = {"size": size}
    if family.longest_side:
        options["pad_size"] = {"height": side, "width": side}
    if source is None:
        return kind(**options)
    try:
        return kind.from_pretrained(source, **options)
    except OSError:  # a folder without one
        return kind(**options)


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


def _missing(source: str | None, error: Exception) -> MissingFileError:
    detail = " ".join(str(error).split())[:160]
    return MissingFileError(
        f"{source} is not here and could not be fetched: {detail}",
        "A folder or a repository with config.json and .safetensors weights.",
        f"Where there is a network and, for gated weights, a login: hf download {source}",
    )


@contextmanager
def _quiet(logging: Any) -> Generator[None]:
    """transformers draws bars and warns of settings that it ignores while it loads."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
