"""Float32 or bfloat16: asked of the hardware, because the same words are 6 times faster on one processor and
80 times slower on another. Weights stay float32 either way; bfloat16 is autocast."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "auto"]
"""What a user asks for; "auto" is bf16 where the hardware multiplies bfloat16 matrices, else fp32."""
Arithmetic = Literal["fp32", "bf16"]
"""What is done. Part of the identity of features and of training runs."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An arithmetic and why."""

    arithmetic: Arithmetic
    reason: str  # for people: "float32: this CPU has no bfloat16 matrix instructions"
    slow: bool = False  # bfloat16 was forced where the hardware has to emulate it; see `slowdown`


def choose(precision: Precision, device: torch.device | str) -> Choice:
    """What a precision means on a device, and why; the same on every call and every machine of its kind."""
    able, why = _hardware(device)
    chosen: Arithmetic = ("bf16" if able else "fp32") if precision == "auto" else precision
    name = "bfloat16" if chosen == "bf16" else "float32"
    reason = f"{name}: {why}" if precision == "auto" else f"{name}, as asked for; {why}"
    return Choice(arithmetic=chosen, reason=reason, slow=chosen == "bf16" and not able)


def autocast(chosen: Arithmetic, device: torch.device) -> AbstractContextManager:
    """What a network runs under."""
    import torch

    return nullcontext() if chosen == "fp32" else torch.autocast(device.type, torch.bfloat16)


def slowdown(device: torch.device | str) -> float:
    """How many times longer a small bfloat16 product takes than a float32 one here, measured."""
    import torch

    def seconds(dtype: torch.dtype) -> float:
        left = torch.ones(64, 256, dtype=dtype, device=device)  # milliseconds where it is slow
        right = torch.ones(256, 256, dtype=dtype, device=device)
        float((left @ right).sum())  # the first product also loads the kernel
        start = time.perf_counter()
        float((left @ right).sum())
        return time.perf_counter() - start

    return seconds(torch.bfloat16) / seconds(torch.float32)


def _hardware(device: torch.device | str) -> tuple[bool, str]:
    """Whether a device multiplies bfloat16 matrices, and the sentence that says so."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        able, name = torch.cuda.is_bf16_supported(including_emulation=False), "GPU"
    else:
        able, name = kind == "cpu" and _cpu_multiplies_bf16(), {"cpu": "CPU"}.get(kind, kind)
    return able, f"this {name} has {'' if able else 'no '}bfloat16 matrix instructions"


@cache
def _cpu_multiplies_bf16() -> bool:
    """AVX512-BF16 or AMX, and oneDNN may use them: it is what multiplies here, and ONEDNN_MAX_CPU_ISA and
    ATEN_CPU_CAPABILITY can forbid it (a CPU without them emulates bfloat16, 80 times slower than float32)."""
    import torch

    instructions = any(
        bool(getattr(torch.cpu, name, bool)())
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    allowed = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return instructions and allowed and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
