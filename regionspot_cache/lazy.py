"""Packages whose public names are imported when first used: settings and presets need no torch."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def attributes_of(module: str) -> Callable[[str], Any]:
    """A package's `__getattr__`: its public names are those of `module`, imported at the first of them."""

    def get(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"{module.rpartition('.')[0]} has no {name}")
        return getattr(import_module(module), name)

    return get
