"""SAM families of the transformers library by name: their sizes, their weights, and seeded random ones."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from regionspot_cache.backbones.assets import published_sams
from regionspot_cache.backbones.hf_sam import HqSam, PlainSam, Sam2, TransformersSam
from regionspot_cache.backbones.presets import SamSpec
from regionspot_cache.backbones.weights import random_seed, read_state
from regionspot_cache.errors import InputError, MissingFileError, RegionSpotError, UsageError
from regionspot_cache.files import read_json

HUB, FOLDER = "hf-hub:", "local-dir:"
_LARGEST = 1 << 20  # number in a configuration: a network of more layers or channels is a mistake


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
    try:
        import transformers
    except ImportError:
        raise UsageError(
            f"sam.model = {spec.model} needs the transformers library.",
            "transformers 5 or newer.",
            "uv pip install transformers",
        ) from None
    library: Any = transformers
    source = _source(spec.model)
    with _quiet(library.utils.logging):
        with _refused(f"The config.json of {source}"):
            family, config = _family_and_config(library, spec.model, source)
        with _refused(f"The network of {source}"):
            network, own = _network(getattr(library, f"{family.name}Model"), config, spec, source)
            side = network.config.prompt_encoder_config.image_size
        with _refused(f"The image processor of {source}"):
            processor = _processor(getattr(library, family.processor), family, side, source if own else None)
    return family.build(network, processor, spec, device)


def _source(model: str) -> str:
    """A repository of the hub or a folder."""
    if model.startswith(FOLDER):
        folder = Path(model.removeprefix(FOLDER))
        read_json(folder / "config.json", "A folder of a transformers model.", f"ls {folder}")
        return str(folder)
    return PUBLISHED[model].repository if model in PUBLISHED else model.removeprefix(HUB)


def _family_and_config(library: Any, model: str, source: str) -> tuple[Family, Any]:
    if model in PUBLISHED:
        family = FAMILIES[PUBLISHED[model].family]
        return family, getattr(library, f"{family.name}Config")(**PUBLISHED[model].settings)
    try:
        found, _ = library.PreTrainedConfig.get_config_dict(source)
    except (OSError, ValueError) as error:
        raise _missing(source, error) from None
    kind = found.get("model_type") if isinstance(found, dict) else None
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(f"{source} holds a model of type {kind}.", f"One of {', '.join(FAMILIES)}.")
    if (largest := max(_integers(found), default=0)) > _LARGEST:
        raise InputError(f"The config.json of {source} has a size of {largest}.", f"At most {_LARGEST}.")
    family = FAMILIES[kind]
    return family, getattr(library, f"{family.name}Config").from_pretrained(source)


def _integers(value: Any) -> Iterator[int]:
    """All whole numbers in a JSON value, without their signs."""
    if isinstance(value, int):
        yield abs(value)
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _integers(item)


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


def _missing(source: str | None, error: Exception) -> MissingFileError:
    detail = " ".join(str(error).split())[:160]
    return MissingFileError(
        f"{source} is not here and could not be fetched: {detail}",
        "A folder or a repository with config.json and .safetensors weights.",
        f"Where there is a network and, for gated weights, a login: hf download {source}",
    )


@contextmanager
def _refused(what: str) -> Generator[None]:
    """transformers refuses wrong values in many ways, which change with its version."""
    try:
        yield
    except RegionSpotError:
        raise
    except Exception as error:
        detail = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        raise InputError(
            f"{what} cannot be used: {detail}", "The files as they were published.", "Fetch them again."
        ) from error


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
