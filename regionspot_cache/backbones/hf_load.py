"""What networks of the transformers library share: where they come from, and loading every tensor of them."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from regionspot_cache.backbones.weights import missing_hub, random_seed, read_state, why_not_fetched
from regionspot_cache.errors import InputError, MissingFileError, RegionSpotError, UsageError
from regionspot_cache.files import read_json

HUB, FOLDER = "hf-hub:", "local-dir:"
_LARGEST = 1 << 20  # number in a configuration: a network of more layers or channels is a mistake


class InRepository(Protocol):
    """A published network; `repository` is on the Hugging Face hub."""

    @property
    def repository(self) -> str: ...


class Spec(Protocol):
    """What the specs of these networks have in common."""

    @property
    def network(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def weights(self) -> str: ...


def transformers_library(what: str) -> Any:
    """The library. Raises UsageError, which says that `what` needs it."""
    try:
        import transformers
    except ImportError:
        raise UsageError(
            f"{what} needs the transformers library.",
            "transformers 5 or newer.",
            "uv pip install transformers",
        ) from None
    missing_hub()
    return transformers


def source_of(model: str, published: Mapping[str, InRepository]) -> str:
    """A repository of the hub or a folder, by the `model` of a spec. Raises MissingFileError."""
    if model.startswith(FOLDER):
        folder = Path(model.removeprefix(FOLDER))
        read_json(folder / "config.json", "A folder of a transformers model.", f"ls {folder}")
        return str(folder)
    return published[model].repository if model in published else model.removeprefix(HUB)


def config_values(library: Any, source: str) -> dict[str, Any]:
    """What the config.json of a folder or repository holds.

    Raises:
        MissingFileError: it is not here and cannot be fetched.
        InputError: sizes of a network that nobody made.
    """
    try:
        found, _ = library.PreTrainedConfig.get_config_dict(source)
    except (OSError, ValueError) as error:
        raise missing(source, error) from None
    if (largest := max(_integers(found), default=0)) > _LARGEST:
        raise InputError(f"The config.json of {source} has a size of {largest}.", f"At most {_LARGEST}.")
    return found if isinstance(found, dict) else {}


def _integers(value: Any) -> Iterator[int]:
    """All whole numbers in a JSON value, without their signs."""
    if isinstance(value, int):
        yield abs(value)
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _integers(item)


def network_of(
    model_class: Any,
    config: Any,
    spec: Spec,
    source: str,
    published: bool,
    draw: Callable[[Any, Any, int], Any],
    with_config: bool = False,
) -> tuple[Any, bool]:
    """The network of a spec, and whether its weights are those of `source`.

    Args:
        model_class, config: of the library.
        source: of `source_of`.
        published: its weights are called "official" then, else "included".
        draw: makes one of random weights out of class, configuration and seed.
        with_config: weights of `source` are read with `config`, whatever their config.json says.

    Raises:
        UsageError: a word for weights that it does not have.
        MissingFileError: weights that are not here and cannot be fetched.
        InputError: weights that do not fit.
    """
    seed = random_seed(spec.weights)
    if seed is not None:
        return draw(model_class, config, seed), False
    own = "official" if published else "included"
    if spec.weights == own:
        text = f"{spec.network}.model = {spec.model}"
        options = {"config": config} if with_config else {}
        return _loaded(model_class, source, text, use_safetensors=True, **options), True
    if spec.weights in ("official", "included", "packaged"):
        raise UsageError(
            f"There are no {spec.weights} weights of {spec.model}.", f"weights: {own}, a path or random:SEED."
        )
    state = read_state(Path(spec.weights))
    text = f"{spec.network}.weights = {spec.weights}"
    return _loaded(model_class, None, text, config=config, state_dict=state), False


def _loaded(model_class: Any, source: str | None, text: str, **options: Any) -> Any:
    """Loads every tensor: transformers would draw missing ones at random and skip what is left over."""
    try:
        network, report = model_class.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except OSError as error:
        raise missing(source, error) from None
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


def missing(source: str | None, error: Exception) -> MissingFileError:
    return MissingFileError(
        f"{source} is not here and could not be fetched: {why_not_fetched(error)}",
        "A folder or a repository with config.json and .safetensors weights.",
        f"Where there is a network and, for gated weights, a login: hf download {source}",
    )


@contextmanager
def refused(what: str) -> Generator[None]:
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
def quiet(logging: Any) -> Generator[None]:
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
