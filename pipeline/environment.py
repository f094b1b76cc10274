"""`rs-cache env`: what a bug report needs."""

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from pipeline import console
from pipeline.places import WORKPLACE
from regionspot_cache.errors import RegionSpotError

NAME = "regionspot-cache"


def environment(*, as_json: bool = False) -> None:
    """Prints versions, devices and paths."""
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
        NAME: installed(NAME) or "not installed",
        **{name: installed(name) or "not installed" for name in _needed()},
        **_devices(),
        "workplace": str(WORKPLACE.absolute()),
    }


def installed(package: str) -> str | None:
    """Version of a package, None when it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _needed() -> list[str]:
    """Packages that the installed metadata names, without those of developers."""
    needed = (requires(NAME) or []) if installed(NAME) else []
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
