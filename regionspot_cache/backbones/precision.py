"""Arithmetic of the frozen image encoders: float32, or autocast to bfloat16; weights stay float32."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from regionspot_cache.backbones.presets import Precision

Arithmetic = Literal["fp32", "bf16"]


def arithmetic(precision: Precision, device: torch.device) -> Arithmetic:
    """What the precision of a spec means on a device: "auto" is bf16 on CUDA and fp32 elsewhere."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" else "fp32"


def autocast(chosen: Arithmetic, device: torch.device) -> AbstractContextManager:
    """What an encoder runs under."""
    return nullcontext() if chosen == "fp32" else torch.autocast(device.type, torch.bfloat16)
