"""`rs-cache backbones` and `env`: what there is."""

import os
import platform
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from pipeline import console
from pipeline.names import backbones as known_backbones
from pipeline.options import option, verb
from pipeline.places import WORKPLACE
from regionspot_cache.errors import RegionSpotError

NAME = "regionspot-cache"


@dataclass(frozen=True, kw_only=True)
class BackbonesSettings:
    """Which of them."""

    names: tuple[str, ...] = option(
        (),
        "NAMES",
        "Presets, YAML files, or names of networks; all that are known when not given.",
        complete=known_backbones,
    )


@verb(BackbonesSettings)
def backbones(settings: BackbonesSettings, *, as_json: bool) -> None:
    """List the frozen networks: operations and stored bytes of each for one image. Needs no weights.

    Example: rs-cache backbones bl backbones/siglip2-so400m.yaml ViT-B-32 sam2.1-hiera-large
    """
    from pipeline.backbones import backbones as run

    run(list(settings.names), as_json=as_json)


@dataclass(frozen=True, kw_only=True)
class EnvSettings:
    """`rs-cache env` has nothing to set."""


@verb(EnvSettings)
def env(_: EnvSettings, *, as_json: bool) -> None:
    """Versions, devices and paths: what a bug report needs."""
    found = facts()
    width = max(map(len, found))
    lines = (f"{key:<{width}}  {value}" for key, value in found.items())
    console.result(found, "\n".join(lines), as_json=as_json)


def facts() -> dict[str, Any]:
    """Versions of this package and of what it works with, devices and paths; JSON-able."""
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        **{name: installed(name) for name in (NAME, *_needed())},
        **_devices(),
        "workplace": str(WORKPLACE.absolute()),
    }


def installed(package: str) -> str:
    """Version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _needed() -> list[str]:
    """Packages that the installed metadata names, without those of developers."""
    try:
        needed = requires(NAME) or []
    except PackageNotFoundError:
        needed = []
    return sorted({re.split(r"[^\w.-]", text)[0] for text in needed if "dev" not in text.partition(";")[2]})


def _devices() -> dict[str, Any]:
    try:
        from regionspot_cache.backbones import weights_home
    except RegionSpotError as error:  # torchvision does not import beside torch
        return {"torch and torchvision": error.found}
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "torch and torchvision": "import together",
        "cuda devices": ", ".join(names) or "none",
        "torch threads": torch.get_num_threads(),
        "fetched weights": str(weights_home()),
    }
