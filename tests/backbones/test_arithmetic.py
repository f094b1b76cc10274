"""Float32 or bfloat16 by what the hardware has; what is slow here is known before hours are spent."""

import os
import subprocess
import sys

import pytest
import torch

from regionspot_cache.backbones import arithmetic
from regionspot_cache.backbones.arithmetic import autocast, choose, slowdown

AVX2_ONLY = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


@pytest.mark.parametrize(("able", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_what_the_cpu_has(monkeypatch: pytest.MonkeyPatch, able: bool, chosen: str) -> None:
    monkeypatch.setattr(arithmetic, "_cpu_multiplies_bf16", lambda: able)
    found = choose("auto", "cpu")
    assert (found.arithmetic, found.slow) == (chosen, False)
    assert ("has no" in found.reason) is not able


@pytest.mark.parametrize(("able", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_what_the_gpu_has_without_emulation(
    monkeypatch: pytest.MonkeyPatch, able: bool, chosen: str
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return able or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert choose("auto", "cuda:1").arithmetic == chosen


def test_devices_that_nobody_measured_take_float32() -> None:
    assert choose("auto", "meta").arithmetic == "fp32"


def test_a_forced_choice_is_kept_and_called_slow_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "_cpu_multiplies_bf16", lambda: False)
    forced = choose("bf16", "cpu")
    assert (forced.arithmetic, forced.slow) == ("bf16", True)
    assert not choose("fp32", "cpu").slow
    assert slowdown("cpu") > 0


def test_a_cpu_that_may_not_use_its_bfloat16_instructions_is_a_cpu_without() -> None:
    """What a processor of the AVX2 generation sees: bfloat16 products there are 80 times slower."""
    code = "from regionspot_cache.backbones.arithmetic import choose; print(choose('auto', 'cpu').arithmetic)"
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **AVX2_ONLY}, capture_output=True, text=True
    )
    assert ran.stdout.strip() == "fp32", ran.stderr


def test_autocast_is_bfloat16_or_nothing() -> None:
    a = torch.ones(2, 2)
    with autocast("bf16", torch.device("cpu")):
        assert (a @ a).dtype == torch.bfloat16
    with autocast("fp32", torch.device("cpu")):
        assert (a @ a).dtype == torch.float32
