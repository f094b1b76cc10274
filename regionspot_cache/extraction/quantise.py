"""Features as they are stored, made on the device that computed them: what `store.storage` makes in numpy.

Values and scales are equal bit by bit. What cannot be stored is not refused here, because that would wait for
the device: it is marked, and whoever reads the result refuses it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from regionspot_cache.store import StorageName
from regionspot_cache.store.storage import INT4_BOUNDS, INT4_LARGEST, LEVELS, int4_groups


class DeviceStored(NamedTuple):
    """Stored features on a device, and which vectors can be stored."""

    values: Tensor  # [..., C] int8, float16, or the bits of bfloat16 as int16; [..., C / 2] uint8 of int4
    scale: Tensor | None  # float16 [...] of int8, [..., G] of int4
    good: Tensor  # bool [...]; elsewhere values and scale mean nothing


def stored_form(x: Tensor, dtype: StorageName) -> DeviceStored:
    """The stored form of float features [..., C]."""
    x = x.float()
    if dtype == "int8":
        scale = _scales(x, LEVELS)
        values = (x / scale.float()[..., None]).round_().to(torch.int8)
        return DeviceStored(values, scale, scale.isfinite())
    if dtype == "int4":
        return _int4(x)
    half = x.half() if dtype == "float16" else x.bfloat16()  # too large values become infinite
    values = half if dtype == "float16" else half.view(torch.int16)
    return DeviceStored(values, None, half.isfinite().all(-1))


def _scales(x: Tensor, levels: float) -> Tensor:
    """float16 [...]: max|x| / levels of x [..., C], rounded up; not finite where that cannot be."""
    largest = x.abs().amax(dim=-1)  # NaN spreads
    # A tensor on the device: CUDA multiplies by the reciprocal of a number, which rounds differently.
    steps = torch.full((), levels, dtype=torch.float32, device=x.device)
    scale = (largest / steps).half()
    too_small = scale.float() * steps < largest
    scale = torch.where(too_small, (scale.view(torch.int16) + 1).view(torch.float16), scale)  # the next one
    return torch.where(largest == 0, torch.ones_like(scale), scale)


def _int4(x: Tensor) -> DeviceStored:
    x = x.unflatten(-1, (int4_groups(x.shape[-1]), -1))
    scale = _scales(x, INT4_LARGEST)
    x = x / scale.float()[..., None]
    bounds = torch.tensor(INT4_BOUNDS, dtype=torch.float32).to(x.device, non_blocking=True)
    codes = torch.bucketize(x.abs(), bounds, out_int32=True).to(torch.uint8)
    codes = torch.where(x < 0, 8 - codes, 8 + codes).flatten(-2)
    return DeviceStored(codes[..., ::2] | codes[..., 1::2] << 4, scale, scale.isfinite().all(-1))
