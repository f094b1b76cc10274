"""`rs-cache env`: what a bug report needs."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline import console
from pipeline.places import WORKPLACE
from regionspot_cache.errors import RegionSpotError

PACKAGES = [
    "regionspot-cache",
    "torch",
    "torchvision",
    "segment-anything",
    "open_clip_torch",
    "zarr",
    "numcodecs",
    "numpy",
    "dask",
    "distributed",
    "pycocotools",
    "lvis",
    "safetensors",
    "typer",
]


def environment(*, as_json: bool = False) -> None:
    """Prints versions, devices and paths."""
    facts = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        **{name: _version(name) for name in PACKAGES},
        **_devices(),
        "workplace": str(WORKPLACE.absolute()),
    }
    width = max(map(len, facts))
    console.result(
        facts, "\n".join(f"{key:<{width}}  {value}" for key, value in facts.items()), as_json=as_json
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


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
