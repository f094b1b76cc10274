"""Networks of your own: installed ones by an entry point's name, any other by its import path.

Naming an import path runs its code. Entry points belong to packages that somebody installed on this machine,
so any file may name them; an import path counts only in a file that the user himself gave, see `load_preset`.
Those of the project cannot be taken over.
"""

import importlib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import torch

from regionspot_cache.backbones.encoder import Encoder
from regionspot_cache.backbones.presets import OwnSpec, is_import_path
from regionspot_cache.errors import UsageError, near

GROUP = "regionspot_cache.networks"
_BUILT_IN = ("sam", "clip", "regionclip", "tipsv2")


def registered() -> dict[str, EntryPoint]:
    """Entry points of installed packages by name; without names that are taken."""
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return {point.name: point for point in points if point.name not in _BUILT_IN}


def own_network(spec: OwnSpec, device: torch.device | str) -> Encoder:
    """What an entry point or an import path makes of the spec and the device.

    Raises:
        UsageError: no such entry point, module or attribute, or what it gives is no encoder.
    """
    point = registered().get(spec.network)
    if point is None and not is_import_path(spec.network):
        known = [*_BUILT_IN, *registered()]
        raise UsageError(
            f"There is no network {spec.network!r}.",
            f"{near(spec.network, known)}One of {', '.join(known)}, or package.module:Name.",
            "See docs/own-backbone.md.",
        )
    point = point or EntryPoint(name=spec.network, value=spec.network, group=GROUP)
    return _checked(spec.network, _load(point)(spec, device))


def _load(point: EntryPoint) -> Callable[..., Any]:
    expected = "package.module:callable, a function of (spec, device)."
    top = point.module.partition(".")[0]
    try:
        found: Any = importlib.import_module(point.module)
    except ImportError as error:
        raise UsageError(
            f"network: {point.name}: {point.module} cannot be imported: {error}.",
            expected,
            f"Install it, or say where it lies: PYTHONPATH=FOLDER-OF-{top} rs-cache ...",
        ) from None
    for name in point.attr.split("."):
        found = getattr(found, name, None)
    if not callable(found):
        own = vars(importlib.import_module(point.module)).items()
        names = [name for name, value in own if getattr(value, "__module__", "") == point.module]
        public = sorted(name for name in names if not name.startswith("_") and callable(dict(own)[name]))
        offered = ", ".join(public) or "nothing that can be called"
        raise UsageError(
            f"network: {point.name}: {point.module} has no callable {point.attr}.",
            f"{expected} {point.module} offers {offered}.",
        )
    return found


def _checked(name: str, made: Any) -> Encoder:
    wanted = {method for method in vars(Encoder) if not method.startswith("_")}
    missing = sorted(wanted - set(dir(made)))
    if missing:
        raise UsageError(
            f"network: {name} gave a {type(made).__name__} without {', '.join(missing)}.",
            f"All of regionspot_cache.backbones.Encoder: {', '.join(sorted(wanted))}.",
            "See docs/own-backbone.md.",
        )
    return made
