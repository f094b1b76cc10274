"""What open_clip knows about models and weight tags: which exist, their activation and preprocessing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip

from regionspot_cache.backbones.presets import ClipSpec
from regionspot_cache.backbones.weights import random_seed
from regionspot_cache.errors import MissingFileError, UsageError

BRINGS_WEIGHTS = ("hf-hub:", "local-dir:")


def check_names(spec: ClipSpec) -> None:
    """Refuses specs that open_clip would misunderstand, or only warn about.

    Raises:
        UsageError: unknown model or tag, or a tag trained with the other GELU.
        MissingFileError: no such weight file.
    """
    _check_model(spec)
    _check_weights(spec)
    _check_gelu(spec)


def preprocessing(spec: ClipSpec) -> dict[str, Any]:
    """Mean, std and interpolation for weights that carry none: those of a file, and random ones.

    open_clip would take OpenAI's for any file, which is wrong for SigLIP and PE-Core, for example.

    Values of open_clip's `PreprocessCfg`; empty where open_clip finds them by itself. Raises UsageError for a
    file of a model whose tags differ; `spec.tag` decides.
    """
    if spec.model.startswith(BRINGS_WEIGHTS) or open_clip.get_pretrained_cfg(spec.model, spec.weights):
        return {}
    if spec.tag:
        return _values(open_clip.get_pretrained_cfg(spec.model, spec.tag))
    tags = open_clip.list_pretrained_tags_by_model(spec.model)
    found = {tag: _values(open_clip.get_pretrained_cfg(spec.model, tag)) for tag in tags}
    first = next(iter(found.values()), {})
    others = [tag for tag, values in found.items() if values != first]
    if others and random_seed(spec.weights) is None:
        raise UsageError(
            f"{spec.weights} could be any weights of {spec.model}, and {', '.join(others)} have another "
            f"preprocessing than {tags[0]}.",
            f"clip.tag: the one of {', '.join(tags)} that the file holds.",
        )
    return first


def _values(cfg: Mapping[str, Any]) -> dict[str, Any]:
    return {key: cfg[key] for key in ("mean", "std", "interpolation") if key in cfg}


def is_open_clip(model: str) -> bool:
    """Whether `ClipSpec.model` names a network of open_clip."""
    return model.startswith(BRINGS_WEIGHTS) or model in open_clip.list_models()


def _check_model(spec: ClipSpec) -> None:
    if is_open_clip(spec.model):
        return
    raise UsageError(
        f"open_clip has no model {spec.model!r}, and no installed package registers one.",
        'A name of open_clip.list_models(), "fg-clip-base", "fg-clip-large", "hf-hub:ORG/NAME", '
        '"local-dir:DIR", "packaged", or "package.module:callable".',
        'python -c "import open_clip; print(*open_clip.list_models())"',
    )


def _check_weights(spec: ClipSpec) -> None:
    if spec.tag is not None and not open_clip.get_pretrained_cfg(spec.model, spec.tag):
        raise _unknown_tag(spec, "clip.tag", spec.tag)
    if random_seed(spec.weights) is not None:
        return
    if spec.model.startswith(BRINGS_WEIGHTS):
        if spec.weights != "included":
            raise UsageError(
                f"clip.weights = {spec.weights!r}, but {spec.model} brings its own.", 'weights: "included".'
            )
        return
    if open_clip.get_pretrained_cfg(spec.model, spec.weights) or Path(spec.weights).is_file():
        return
    if "/" in spec.weights or Path(spec.weights).suffix:
        raise MissingFileError(f"No weight file at {spec.weights}.", "A state dict of " + spec.model + ".")
    raise _unknown_tag(spec, "weights", spec.weights)


def _unknown_tag(spec: ClipSpec, key: str, value: str) -> UsageError:
    tags = open_clip.list_pretrained_tags_by_model(spec.model)
    return UsageError(
        f"open_clip has no {key} {value!r} for {spec.model}.",
        f"One of {', '.join(tags) or 'no tag'}"
        + ("." if key == "clip.tag" else ", the path of a state dict, or random:SEED."),
    )


def _check_gelu(spec: ClipSpec) -> None:
    """open_clip only warns when a tag needs QuickGELU and the model has GELU; the features would be wrong."""
    weights = spec.tag or spec.weights
    tag = open_clip.get_pretrained_cfg(spec.model, weights)
    if not tag:
        return
    has = bool(spec.quick_gelu or (open_clip.get_model_config(spec.model) or {}).get("quick_gelu", False))
    needs = bool(tag.get("quick_gelu", False))
    if has != needs:
        plain = spec.model.removesuffix("-quickgelu")
        right = plain + "-quickgelu" if needs else plain
        raise UsageError(
            f"{spec.model} with weights {weights!r} would run {'QuickGELU' if has else 'GELU'}, "
            f"but they were trained with {'QuickGELU' if needs else 'GELU'}.",
            f"The model {right}" + (", or quick_gelu: true." if needs else ", without quick_gelu."),
            f"--set clip.model={right}",
        )
