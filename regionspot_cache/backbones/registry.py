"""Networks of your own: installed ones by an entry point's name, any other by its import path.

Naming an import path runs its code. Entry points belong to packages that somebody installed on this machine,
so any file may name them; an import path counts only in a file that the user himself gave, see `load_preset`.
A name that this package, transformers or open_clip has already cannot be taken over.
"""

import importlib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

import torch

from regionspot_cache.backbones.clip_encoder import ClipEncoder
from regionspot_cache.backbones.clip_tags import is_open_clip
from regionspot_cache.backbones.hf_sam_load import is_transformers
from regionspot_cache.backbones.presets import ClipSpec, SamSpec, is_import_path
from regionspot_cache.backbones.sam_build import PUBLISHED
from regionspot_cache.backbones.sam_encoder import SamEncoder
from regionspot_cache.errors import UsageError

Kind = Literal["sam", "clip"]
Factory = Callable[[SamSpec | ClipSpec, torch.device | str], Any]
"""A spec and a device to an encoder, see `SamEncoder` and `ClipEncoder`."""

GROUPS: dict[Kind, str] = {"sam": "regionspot_cache.sam", "clip": "regionspot_cache.clip"}
PROTOCOLS: dict[Kind, type] = {"sam": SamEncoder, "clip": ClipEncoder}


def registered(kind: Kind) -> dict[str, EntryPoint]:
    """Entry points of installed packages for one part, by name; without names that are taken."""
    points = sorted(entry_points(group=GROUPS[kind]), key=lambda point: point.name)
    return {point.name: point for point in points if not _is_built_in(kind, point.name)}


def _is_built_in(kind: Kind, model: str) -> bool:
    if model == "packaged":
        return True
    return is_open_clip(model) if kind == "clip" else model in PUBLISHED or is_transformers(model)


def own_network(kind: Kind, model: str) -> Factory | None:
    """What makes the network `model` of a spec: an entry point or an import path; None for any other.

    Args:
        kind: the part.
        model: `spec.model`, for example "package.module:callable".

    Returns:
        a function of (spec, device); it raises UsageError when what it got is no encoder.

    Raises:
        UsageError: no such module or attribute, or one that cannot be called.
    """
    point = registered(kind).get(model)
    if point is None:
        if not is_import_path(model):
            return None
        point = EntryPoint(name=model, value=model, group=GROUPS[kind])
    found = _load(kind, point)

    def build(spec: SamSpec | ClipSpec, device: torch.device | str) -> Any:
        return _checked(kind, model, found(spec, device))

    return build


def _load(kind: Kind, point: EntryPoint) -> Callable[..., Any]:
    expected = "package.module:callable, a function of (spec, device)."
    top = point.module.partition(".")[0]
    try:
        found: Any = importlib.import_module(point.module)
    except ImportError as error:
        raise UsageError(
            f"{kind}.model = {point.name}: {point.module} cannot be imported: {error}.",
            expected,
            f"Install it, or say where it lies: PYTHONPATH=FOLDER-OF-{top} rs-cache ...",
        ) from None
    for name in point.attr.split("."):
        found = getattr(found, name, None)
    if not callable(found):
        offered = ", ".join(_callables(importlib.import_module(point.module))) or "nothing that can be called"
        raise UsageError(
            f"{kind}.model = {point.name}: {point.module} has no callable {point.attr}.",
            f"{expected} {point.module} offers {offered}.",
        )
    return found


def _callables(module: Any) -> list[str]:
    own = (
        name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
    )
    return sorted(name for name in own if not name.startswith("_") and callable(getattr(module, name)))


def _checked(kind: Kind, model: str, made: Any) -> Any:
    wanted = {name for name in vars(PROTOCOLS[kind]) if not name.startswith("_")}
    missing = sorted(wanted - set(dir(made)))
    if missing:
        protocol = PROTOCOLS[kind]
        raise UsageError(
            f"{kind}.model = {model} gave a {type(made).__name__} without {', '.join(missing)}.",
            f"All of regionspot_cache.backbones.{protocol.__name__}: {', '.join(sorted(wanted))}.",
            "See docs/own-backbone.md.",
        )
    return made
