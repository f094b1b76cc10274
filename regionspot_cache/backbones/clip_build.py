"""Makes open_clip models from a spec: names, tags, files, random weights, and the packaged small one."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from regionspot_cache.backbones.assets import PACKAGED_TOKENIZER, packaged_config, packaged_state
from regionspot_cache.backbones.presets import ClipSpec
from regionspot_cache.backbones.weights import load_state, random_seed, weights_home
from regionspot_cache.errors import InputError, MissingFileError, UsageError

Tokenizer = Callable[[list[str]], Tensor]
"""Texts to int64 token ids [T, context length]."""

BRINGS_WEIGHTS = ("hf-hub:", "local-dir:")


@dataclass(frozen=True, kw_only=True)
class ClipParts:
    """A built open_clip model.

    Attributes:
        model: open_clip's CLIP or CustomTextCLIP, float32.
        tokenizer: the tokenizer that belongs to it.
        tokenizer_id: names the tokenizer in fingerprints.
        mean, std: of RGB in 0..1, three numbers each.
        interpolation: "bicubic" or "bilinear".
        quick_gelu: whether the model runs QuickGELU in place of GELU.
    """

    model: Any  # the attributes of open_clip's models are not typed
    tokenizer: Tokenizer
    tokenizer_id: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    quick_gelu: bool


def build_clip(spec: ClipSpec) -> ClipParts:
    """The model of a spec, on the CPU, in training mode.

    Raises:
        UsageError: unknown model or tag, or a tag trained with the other GELU.
        MissingFileError: weights that are not here and cannot be fetched.
        InputError: weights that do not fit.
    """
    if spec.model == "packaged":
        return _packaged(spec)
    _check_name(spec)
    _check_weights(spec)
    _check_gelu(spec)
    with _quiet(), _described_errors(spec):
        model = _create(spec)
        tokenizer = open_clip.get_tokenizer(spec.model, cache_dir=_cache_folder())
    cfg = model.visual.preprocess_cfg
    return ClipParts(
        model=model,
        tokenizer=tokenizer,
        tokenizer_id=f"open_clip {spec.model}",
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        interpolation=cfg["interpolation"] if cfg["interpolation"] == "bilinear" else "bicubic",
        quick_gelu=_runs_quick_gelu(spec),
    )


def _packaged(spec: ClipSpec) -> ClipParts:
    config = packaged_config("clip")
    if spec.image_size not in (None, config["model_cfg"]["vision_cfg"]["image_size"]):
        raise UsageError(f"clip.image_size = {spec.image_size} with the packaged model.", "No image_size.")
    seed = random_seed(spec.weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        model = open_clip.CLIP(**config["model_cfg"])
    if seed is None:
        if spec.weights != "included":
            raise UsageError(
                f"clip.weights = {spec.weights!r} with the packaged model.",
                'weights: "included" or "random:SEED".',
            )
        load_state(model, packaged_state("clip"), "the packaged CLIP")
    length = config["model_cfg"]["text_cfg"]["context_length"]
    preprocess = config["preprocess"]
    return ClipParts(
        model=model,
        tokenizer=open_clip.SimpleTokenizer(str(PACKAGED_TOKENIZER), context_length=length),
        tokenizer_id="packaged",
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        interpolation=preprocess["interpolation"],
        quick_gelu=config["model_cfg"].get("quick_gelu", False),
    )


def _create(spec: ClipSpec) -> Any:
    seed = random_seed(spec.weights)
    brings = spec.model.startswith(BRINGS_WEIGHTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        return open_clip.create_model(
            spec.model,
            pretrained=None if brings or seed is not None else spec.weights,
            force_quick_gelu=bool(spec.quick_gelu),
            force_image_size=spec.image_size,
            pretrained_text=False,
            require_pretrained=seed is None,
            load_weights=seed is None,
            cache_dir=_cache_folder(),
            weights_only=True,
        )


def _cache_folder() -> str:
    return str(weights_home() / "open_clip")


def _check_name(spec: ClipSpec) -> None:
    if spec.model.startswith(BRINGS_WEIGHTS) or spec.model in open_clip.list_models():
        return
    raise UsageError(
        f"open_clip has no model {spec.model!r}.",
        'A name of open_clip.list_models(), "hf-hub:ORG/NAME", "local-dir:DIR" or "packaged".',
        'python -c "import open_clip; print(*open_clip.list_models())"',
    )


def _check_weights(spec: ClipSpec) -> None:
    if random_seed(spec.weights) is not None:
        return
    if spec.model.startswith(BRINGS_WEIGHTS):
        if spec.weights != "included":
            raise UsageError(
                f"clip.weights = {spec.weights!r}, but {spec.model} brings its own.", 'weights: "included".'
            )
        return
    tags = open_clip.list_pretrained_tags_by_model(spec.model)
    if open_clip.get_pretrained_cfg(spec.model, spec.weights) or Path(spec.weights).is_file():
        return
    if "/" in spec.weights or Path(spec.weights).suffix:
        raise MissingFileError(f"No weight file at {spec.weights}.", "A state dict of " + spec.model + ".")
    raise UsageError(
        f"open_clip has no weights {spec.weights!r} for {spec.model}.",
        f"One of {', '.join(tags) or 'no tag'}, the path of a state dict, or random:SEED.",
    )


def _check_gelu(spec: ClipSpec) -> None:
    """open_clip only warns when a tag needs QuickGELU and the model has GELU; the features would be wrong."""
    tag = open_clip.get_pretrained_cfg(spec.model, spec.weights)
    if not tag:
        return
    has = _runs_quick_gelu(spec)
    needs = bool(tag.get("quick_gelu", False))
    if has != needs:
        plain = spec.model.removesuffix("-quickgelu")
        right = plain + "-quickgelu" if needs else plain
        raise UsageError(
            f"{spec.model} with weights {spec.weights!r} would run {'QuickGELU' if has else 'GELU'}, "
            f"but they were trained with {'QuickGELU' if needs else 'GELU'}.",
            f"The model {right}" + (", or quick_gelu: true." if needs else ", without quick_gelu."),
            f"--set clip.model={right}",
        )


def _runs_quick_gelu(spec: ClipSpec) -> bool:
    return bool(spec.quick_gelu or (open_clip.get_model_config(spec.model) or {}).get("quick_gelu", False))


@contextmanager
def _described_errors(spec: ClipSpec) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        if random_seed(spec.weights) is None and not Path(spec.weights).is_file():
            raise MissingFileError(
                f"The weights of {spec.model} ({spec.weights}) could not be fetched: {detail}",
                f"A network, or open_clip's copy under {_cache_folder()}.",
                "Fetch them elsewhere and give clip.weights as the path of the .safetensors or .pt file.",
            ) from error
        raise InputError(
            f"{spec.model} cannot be made with weights {spec.weights}: {detail}", "Weights that fit."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps open_clip's logging from installing a handler on the root logger, and its warnings away."""
    silent = logging.NullHandler()
    logging.getLogger().addHandler(silent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().removeHandler(silent)
