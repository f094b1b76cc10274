"""Pictures as inputs of networks: resized to uint8 on the CPU, normalised on the device.

uint8 is a quarter of the bytes of float32, in the queue and on the way to a GPU.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import InterpolationMode, resize

Statistics = tuple[Tensor, Tensor]
"""Mean and deviation, float32 [3,1,1] on the device."""


def statistics(mean: Sequence[float], std: Sequence[float], device: torch.device) -> Statistics:
    """Of three numbers each."""
    first, second = (torch.tensor(v, dtype=torch.float32, device=device).view(3, 1, 1) for v in (mean, std))
    return first, second


def by_pillow(image: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> Tensor:
    """uint8 [H,W,3] to uint8 [3,height,width] of `size` (height, width)."""
    resized = np.array(Image.fromarray(image).resize(size[::-1], how))
    return torch.from_numpy(resized).permute(2, 0, 1).contiguous()


def by_torchvision(image: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> Tensor:
    """As `by_pillow`, with the roundings of torchvision, which transformers resizes with."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    interpolation = InterpolationMode(how.name.lower())
    return resize(pixels, list(size), interpolation=interpolation, antialias=True)


def framed(pixels: Tensor, side: int) -> Tensor:
    """uint8 [3,h,w] in the upper left corner of a square: uint8 [4,side,side] of RGB and, 1 or 0, which
    pixels are the picture's, so that pictures of all shapes make one batch and padding stays zero."""
    height, width = pixels.shape[1:]
    out = torch.zeros(4, side, side, dtype=torch.uint8)
    out[:3, :height, :width] = pixels
    out[3, :height, :width] = 1
    return out


def normalised(batch: Tensor, mean_and_std: Statistics, *, white: float) -> Tensor:
    """Inputs as a network takes them, on the device of the statistics.

    Args:
        batch: uint8 [B,3,h,w], or [B,4,h,w] of `framed`; floats were normalised before.
        mean_and_std: of pixels of which white ones are `white`: 1 or 255.

    Returns:
        float32 [B,3,h,w]; zero where no picture is.
    """
    mean, std = mean_and_std
    batch = batch.to(mean.device, non_blocking=True)
    if batch.dtype != torch.uint8:
        return batch
    out = torch.empty(len(batch), 3, *batch.shape[2:], device=batch.device)
    for image, made in zip(batch, out, strict=True):  # one at a time stays in a processor's cache
        made.copy_(image[:3])
        if white != 255:
            made.div_(255 / white)
        made.sub_(mean).div_(std)
        if len(image) > 3:
            made.mul_(image[3].float())
    return out
