"""What a figure depends on beside the code: processor, memory, devices, versions, other work."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "regionspot-cache",
    "numpy",
    "torch",
    "zarr",
    "tensorstore",
    "segment-anything",
    "open_clip_torch",
    "lvis",
    "distributed",
    "litdata",
    "mosaicml-streaming",
    "webdataset",
)


def machine() -> dict[str, Any]:
    """JSON-able facts; what the system does not tell is "unknown"."""
    import torch

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": proc_field("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
        "cores": cores(),
        "memory": proc_field("/proc/meminfo", "MemTotal") or "unknown",
        "cuda": ", ".join(cuda) or "none",
        "torch threads": torch.get_num_threads(),
        "load before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: installed(name) or "not installed" for name in PACKAGES},
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def installed(package: str) -> str | None:
    """Version of a package, None when it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def is_busy(facts: dict[str, Any]) -> bool:
    """Whether other work was running: its figures are then no measurement of this machine."""
    return facts["load before"] > 0.5


def proc_field(file: str, name: str) -> str | None:
    """First value of a `name: value` line of a file of /proc."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)
