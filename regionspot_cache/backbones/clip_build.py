"""Makes open_clip models from a spec: names, tags, files, random weights, and the packaged small one."""

import logging
import pickle
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from regionspot_cache.backbones.assets import PACKAGED_TOKENIZER, packaged_config, packaged_state
from regionspot_cache.backbones.clip_tags import BRINGS_WEIGHTS, check_names, preprocessing
from regionspot_cache.backbones.presets import ClipSpec, RegionClipSpec
from regionspot_cache.backbones.weights import (
    load_state,
    missing_hub,
    random_seed,
    weights_home,
    why_not_fetched,
)
from regionspot_cache.errors import InputError, MissingFileError, UsageError

Tokenizer = Callable[[list[str]], Tensor]
"""Texts to int64 token ids [T, context length]."""


@dataclass(frozen=True, kw_only=True)
class ClipParts:
    """A built open_clip model."""

    model: Any  # open_clip's CLIP or CustomTextCLIP, float32, whose attributes are not typed
    tokenizer: Tokenizer
    tokenizer_id: str  # for fingerprints
    mean: tuple[float, ...]  # of RGB in 0..1
    std: tuple[float, ...]
    interpolation: str  # "bicubic" or "bilinear"
    quick_gelu: bool  # whether the model runs QuickGELU in place of GELU


def build_clip(spec: ClipSpec | RegionClipSpec, device: str = "cpu") -> ClipParts:
    """The model of a spec, in training mode; on "meta" a network of random weights without values.

    The packaged one of a `RegionClipSpec` is the small ResNet with the text tower of the packaged CLIP.

    Raises:
        UsageError: unknown model or tag, a tag trained with the other GELU, or a file that may be of several
            tags.
        MissingFileError: weights that are not here and cannot be fetched.
        InputError: weights that do not fit.
    """
    if spec.model == "packaged":
        return _packaged(spec, device)
    if isinstance(spec, RegionClipSpec):
        spec = ClipSpec(model=spec.model, weights=spec.weights)
    check_names(spec)
    known = preprocessing(spec)
    with _quiet(), _described_errors(spec):
        model = _create(spec, known, device)
    cfg = model.visual.preprocess_cfg
    return ClipParts(
        model=model,
        tokenizer=_LazyTokenizer(spec),
        tokenizer_id=f"open_clip {portable_name(spec.model)}",
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        interpolation=cfg["interpolation"] if cfg["interpolation"] == "bilinear" else "bicubic",
        quick_gelu=_runs_quick_gelu(model),
    )


def portable_name(model: str) -> str:
    """The `model` of a spec without the folder of a local one, which differs between machines."""
    kind, separator, where = model.partition("local-dir:")
    return f"{separator}{Path(where).name}" if separator else kind


class _LazyTokenizer:
    """open_clip's tokenizer, made at the first text: those of SigLIP need `transformers` and a download."""

    def __init__(self, spec: ClipSpec) -> None:
        self.spec = spec

    @cached_property
    def tokenize(self) -> Tokenizer:
        missing_hub()
        try:
            with _quiet():
                return open_clip.get_tokenizer(self.spec.model, cache_dir=open_clip_folder())
        except ImportError as error:
            raise UsageError(
                f"The tokenizer of {self.spec.model} needs another package: {error}.",
                "The transformers library.",
                "uv pip install transformers",
            ) from None
        except (RuntimeError, OSError, ValueError) as error:
            raise MissingFileError(
                f"The tokenizer of {self.spec.model} could not be fetched: {why_not_fetched(error)}",
                f"A network once, or its copy under {open_clip_folder()}.",
                "Fetch it elsewhere and copy that folder, or set HF_HOME to a cache that has it.",
            ) from None

    def __call__(self, texts: list[str]) -> Tensor:
        return self.tokenize(texts)


def _packaged(spec: ClipSpec | RegionClipSpec, device: str) -> ClipParts:
    config = packaged_config("clip")
    resnet = isinstance(spec, RegionClipSpec)
    model_cfg = {**config["model_cfg"], **packaged_config("resnet")} if resnet else config["model_cfg"]
    if _image_size(spec) not in (None, model_cfg["vision_cfg"]["image_size"]):
        raise UsageError(f"clip.image_size = {_image_size(spec)} with the packaged model.", "No image_size.")
    seed = random_seed(spec.weights)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed or 0)
        model = open_clip.CLIP(**model_cfg)
    if seed is None:
        if spec.weights != "included":
            raise UsageError(
                f"{spec.network}.weights = {spec.weights!r} with the packaged model.",
                'weights: "included" or "random:SEED".',
            )
        state = packaged_state("clip")
        if resnet:
            state = {key: value for key, value in state.items() if not key.startswith("visual.")}
            state |= {f"visual.{key}": value for key, value in packaged_state("resnet").items()}
        load_state(model, state, "the packaged CLIP")
    length = config["model_cfg"]["text_cfg"]["context_length"]
    preprocess = config["preprocess"]
    return ClipParts(
        model=model,
        tokenizer=open_clip.SimpleTokenizer(str(PACKAGED_TOKENIZER), context_length=length),
        tokenizer_id="packaged",
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        interpolation=preprocess["interpolation"],
        quick_gelu=_runs_quick_gelu(model),
    )


def _image_size(spec: ClipSpec | RegionClipSpec) -> int | None:
    return spec.image_size if isinstance(spec, ClipSpec) else None


def _create(spec: ClipSpec, known: dict[str, Any], device: str) -> Any:
    seed = random_seed(spec.weights)
    brings = spec.model.startswith(BRINGS_WEIGHTS)
    if seed is None:
        missing_hub()
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed or 0)
        return open_clip.create_model(
            spec.model,
            device=device,
            pretrained=None if brings or seed is not None else spec.weights,
            force_quick_gelu=bool(spec.quick_gelu),
            force_image_size=spec.image_size,
            force_preprocess_cfg=known,
            pretrained_text=False,
            require_pretrained=seed is None,
            load_weights=seed is None,
            cache_dir=open_clip_folder(),
            weights_only=True,
        )


def _runs_quick_gelu(model: torch.nn.Module) -> bool:
    # By the name of the class: open_clip and timm have one each, and timm towers ignore open_clip's switch.
    return any(type(module).__name__ == "QuickGELU" for module in model.modules())


def open_clip_folder() -> str:
    """Where open_clip keeps what it fetched."""
    return str(weights_home() / "open_clip")


@contextmanager
def _described_errors(spec: ClipSpec) -> Generator[None]:
    try:
        yield
    except (
        RuntimeError,
        OSError,
        ValueError,
        TypeError,  # and the next two: a config that is none
        KeyError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        local = spec.model.startswith("local-dir:") or Path(spec.weights).is_file()
        if random_seed(spec.weights) is None and not local:
            raise MissingFileError(
                f"The weights of {spec.model} ({spec.weights}) could not be fetched: "
                f"{why_not_fetched(error, 200)}",
                f"A network, or open_clip's copy under {open_clip_folder()}.",
                "Fetch them elsewhere and give clip.weights as the path of the .safetensors or .pt file.",
            ) from error
        detail = " ".join(str(error).split())[:200]
        raise InputError(
            f"{spec.model} cannot be made with weights {spec.weights}: {detail}", "Weights that fit."
        ) from error


@contextmanager
def _quiet() -> Generator[None]:
    """Keeps open_clip's logging from installing a handler on the root logger, and its warnings away."""
    silent = logging.NullHandler()
    logging.getLogger().addHandler(silent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().removeHandler(silent)
