"""RegionSpot's released checkpoints: read with every name and shape checked, and written back.

A released file is a PyTorch checkpoint {"model": {"model.to_clip.weight": ...}} of a training run, with or
without the frozen SAM and CLIP, or what is left of one after stripping. The head in it has 6 + 18 * depth
tensors, 60 for the paper's depth of 3. What a file cannot say is the resolution of CLIP: the heads for 224
and 336 pixels of ViT-L/14 have the same shapes, so the backbone is given with it.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regionspot_cache.backbones.presets import PRESETS, BackboneSpec, ClipSpec, SamSpec, load_preset
from regionspot_cache.backbones.weights import read_tensors
from regionspot_cache.errors import IdentityError, InputError, UsageError
from regionspot_cache.files import replacing
from regionspot_cache.training.head import HeadConfig, RegionHead

PREFIX = "model."
FROZEN = ("clip_model.", "sam.")
BESIDE_MODEL = {"trainer", "optimizer", "scheduler", "iteration", "ema_state"}  # Detectron2's checkpointer
TOKEN_DIM = 256  # SAM's mask token
# Preset -> grid of CLIP's map, its width, width of the text embeddings.
SIZES: dict[str, tuple[tuple[int, int], int, int]] = {
    "bb": ((14, 14), 768, 512),
    "bl": ((16, 16), 1024, 768),
    "bl336": ((24, 24), 1024, 768),
}
# What the official code has no switch for; any other value of these changes what the tensors mean there.
FIXED = {
    "num_heads": 8,
    "ffn_dim": 2048,
    "map_norm": False,
    "map_positions": 0.0,
    "use_map": True,
    "class_token": True,
    "self_attention": True,
    "logit_scale": 100.0,
    "prefix_tokens": 1,
    "token_dim": TOKEN_DIM,
}


def read_official(path: Path | str) -> dict[str, Tensor]:
    """The tensors of the head in a released checkpoint, under the names of `RegionHead`, float32.

    Depth and widths are taken from the file; given those, every name and shape must be as expected. They may
    be nested under "model" or flat, with the prefix "model." or without.

    Raises:
        MissingFileError, InputError: as `read_tensors`; also for values that are not finite.
        IdentityError: a tensor is unknown, missing or of another shape; names the first.
    """
    path = Path(path)
    tensors = _head_tensors(_state(_read(path), path), path)
    _check_shapes(tensors, path)
    return {name: _as_float32(value, name, path) for name, value in tensors.items()}


def released_backbone(backbone: str | Path | BackboneSpec) -> BackboneSpec:
    """The backbone of a released head, images squashed as in its training.

    bb, bl, bl336, or an own one of the same networks, for example from local files. UsageError: another.
    """
    spec = backbone if isinstance(backbone, BackboneSpec) else load_preset(backbone)
    _released_preset(spec)
    clip = spec.first(ClipSpec)
    if clip.resize == "auto":
        name = next(name for name, part in spec.parts.items() if part is clip)
        spec = spec.with_parts(**{name: replace(clip, resize="bilinear-noantialias")})
    return spec


def import_official(path: Path | str, backbone: str | Path | BackboneSpec) -> RegionHead:
    """A released checkpoint as a head, in evaluation mode; the backbone decides the grid.

    Raises as `read_official` and `released_backbone`; IdentityError also for the widths of another preset.
    """
    grid, map_dim, text_dim = SIZES[_released_preset(released_backbone(backbone))]
    tensors = read_official(path)
    found = tuple(tensors["projector.weight"].shape[::-1])
    if found != (map_dim, text_dim) or tensors["to_clip.weight"].shape[1] != TOKEN_DIM:
        fitting = " or ".join(name for name, sizes in SIZES.items() if sizes[1:] == found)
        raise IdentityError(
            f"{path}: a head of {found[0]} wide maps, {found[1]} wide texts and "
            f"{tensors['to_clip.weight'].shape[1]} wide tokens",
            f"{map_dim}, {text_dim} and {TOKEN_DIM} with this backbone",
            f"--backbone {fitting.split()[0]}   ({fitting} fits)" if fitting else "",
        )
    config = HeadConfig(
        token_dim=TOKEN_DIM, map_dim=map_dim, text_dim=text_dim, maps=((1, *grid),), depth=_depth(tensors)
    )
    with torch.device("meta"):  # no random numbers are drawn for weights that are replaced at once
        head = RegionHead(config)
    head.to_empty(device="cpu").load_checked(tensors, source=str(path))
    return head.eval()


def export_official(head: RegionHead, path: Path | str) -> None:
    """Write a head as a checkpoint that the official code loads; IdentityError names an option it has not."""
    if len(head.config.maps) > 1:
        found = f"maps = {head.config.maps}: the official code attends to one map."
        raise IdentityError(found, "One map.", "Train a head on a single map to use it there.")
    for name, expected in FIXED.items():
        if (found := getattr(head.config, name)) != expected:
            raise IdentityError(
                f"{name} = {found}, which the official code has no switch for.",
                f"{name} = {expected}.",
                "Train a head with the paper's options to use it there.",
            )
    weights = {name: value for name, value in head.state_dict().items() if name != "offset"}
    state = {PREFIX + name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with replacing(Path(path)) as staging:
        torch.save({"model": state}, staging)


def _released_preset(spec: BackboneSpec) -> str:
    sam, clip = spec.first(SamSpec), spec.first(ClipSpec)
    for name in SIZES:
        known = PRESETS[name]
        same = (clip.model, clip.image_size, clip.layers) == (known.first(ClipSpec).model, None, (-1,))
        if same and sam.model == known.first(SamSpec).model and spec.head == known.head:
            return name
    raise UsageError(
        f"Backbone {spec.name}: no released head has SAM {sam.model} and CLIP {clip.model}.",
        f"{', '.join(SIZES)}, or an own file with the networks of one of these.",
    )


def _read(path: Path) -> Mapping[Any, Any]:
    remedy = 'Where you trust its source: load it there and save its "model" entry alone.'
    content = read_tensors(path, "A checkpoint of tensors in plain containers.", remedy, mapped=True)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}.", "Named tensors.")
    return content


def _state(content: Mapping[Any, Any], path: Path) -> Mapping[Any, Any]:
    """What lies under "model", or all of it."""
    nested = content.get("model")
    if not isinstance(nested, Mapping):
        return content
    if unknown := sorted(map(str, set(content) - BESIDE_MODEL - {"model"})):
        raise IdentityError(
            f'{path}: unknown entry {unknown[0]} beside "model"', f"only {', '.join(sorted(BESIDE_MODEL))}"
        )
    return nested


def _head_tensors(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Without prefix and frozen networks."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        name = str(key).removeprefix(PREFIX)
        if name.startswith(FROZEN):
            continue
        if name in found:
            raise IdentityError(f"{path}: {name} is there twice", f"with the prefix {PREFIX} or without")
        plain = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
        if not plain or not value.is_floating_point():
            raise IdentityError(f"{path}: unknown entry {key}", "floating-point tensors of a RegionSpot head")
        found[name] = value
    return found


def _check_shapes(tensors: Mapping[str, Tensor], path: Path) -> None:
    sizes = {}
    for name in ("to_clip.weight", "projector.weight"):
        shape = tensors[name].shape if name in tensors else ()
        if len(shape) != 2:
            raise _mismatch(path, name, tuple(shape) or "missing", "two-dimensional")
        sizes[name] = shape
    map_dim, token_dim = sizes["to_clip.weight"]
    try:
        config = HeadConfig(
            token_dim=token_dim,
            map_dim=map_dim,
            text_dim=sizes["projector.weight"][0],
            maps=((1, 1, 1),),
            depth=_depth(tensors),
        )
    except InputError as error:
        raise _mismatch(path, "to_clip.weight", f"{(map_dim, token_dim)}: {error.found}", "other") from None
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in RegionHead(config).state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted(set(found) - set(expected)) + sorted(expected):
        if found.get(name) != expected.get(name):
            raise _mismatch(path, name, found.get(name, "missing"), expected.get(name, "no such tensor"))


def _mismatch(path: Path, name: str, found: object, expected: object) -> IdentityError:
    return IdentityError(
        f"{path}: {name} is {found}", f"{expected}, as in a RegionSpot head", "Use a released checkpoint."
    )


def _depth(tensors: Mapping[str, Tensor]) -> int:
    layers = {m[1] for name in tensors if (m := re.match(r"decoder\.layers\.(\d+)\.", name))}
    return max(1, len(layers))


def _as_float32(value: Tensor, name: str, path: Path) -> Tensor:
    if not torch.isfinite(value).all():
        raise InputError(f"{path}: {name} has values that are not finite", "numbers", "Fetch the file again.")
    return value.float()
