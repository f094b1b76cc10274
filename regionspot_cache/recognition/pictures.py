"""Whatever people hold an image in, to the pixels that the networks see: uint8 RGB [H, W, 3].

| what | how it is read |
|---|---|
| a path | as image files of datasets are, see `datasets.images.decode_image` |
| a PIL image of any mode | the same: alpha is dropped, of 16-bit grey levels the high byte is taken |
| an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] | uint8, or floats from 0 to 1; alpha is dropped |
| a tensor [H, W], [1, H, W], [3, H, W] or [4, H, W] | the same, channels first as torchvision has them |

Nothing is guessed: floats above 1 may be levels up to 255 or an overshoot of resizing, and wider integers
have no known range. An EXIF orientation does not turn the image.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from regionspot_cache.datasets.images import ImageFailure, read_image, to_rgb
from regionspot_cache.errors import InputError

KINDS = "A path, a PIL image, an array [H, W, 3] or a tensor [3, H, W]."


def to_pixels(image: Any) -> NDArray[np.uint8]:
    """An image as the table above says, uint8 RGB [H, W, 3]. InputError: it is none, or ambiguous."""
    if isinstance(image, (str, Path)):
        try:
            return read_image(Path(image))
        except ImageFailure as failure:
            raise InputError(f"{failure}.", "An image file that can be decoded.") from None
    if isinstance(image, Image.Image):
        return _of_pil(image)
    if isinstance(image, torch.Tensor):
        return _of_tensor(image)
    if isinstance(image, np.ndarray):
        return _of_array(image)
    remedy = "predictor.predict_batch(images, boxes, classes)" if isinstance(image, (list, tuple)) else ""
    raise InputError(f"an image that is a {type(image).__name__}", KINDS, remedy)


def _of_pil(image: Image.Image) -> NDArray[np.uint8]:
    try:
        return to_rgb(image)
    except Exception as error:  # whatever Pillow makes of a broken or closed file, or a mode it cannot turn
        raise InputError(f"a PIL image of mode {image.mode}: {error}", KINDS) from None


def _of_tensor(image: torch.Tensor) -> NDArray[np.uint8]:
    image = image.detach().cpu()
    if image.ndim == 3:
        if image.shape[0] not in (1, 3, 4):
            found = f"a tensor image of {list(image.shape)}"
            raise InputError(
                found, "Channels first: [3, H, W].", "image.permute(2, 0, 1), or one image of a batch"
            )
        image = image.permute(1, 2, 0)
    return _of_array((image.float() if image.is_floating_point() else image).numpy())


def _of_array(image: NDArray[Any]) -> NDArray[np.uint8]:
    shape = list(image.shape)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        first = image.ndim == 3 and image.shape[0] in (1, 3, 4)
        remedy = "image.transpose(1, 2, 0)" if first else ""
        raise InputError(f"an image of {image.dtype} {shape}", "[H, W, 3], or grey [H, W].", remedy)
    levels = _levels(image[:, :, : 3 if image.shape[2] == 4 else None])
    return np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3)))


def _levels(image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind != "f":
        found = f"an image of {image.dtype}, whose range is not known"
        raise InputError(
            found, "uint8, or floats from 0 to 1.", "image.astype(np.uint8) for levels up to 255"
        )
    low, high = float(image.min()), float(image.max())  # NaN stays NaN
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"an image of {image.dtype} with values from {low:.4g} to {high:.4g}",
            "uint8, or floats from 0 to 1.",
            "image.round().astype(np.uint8) for levels up to 255, np.clip(image, 0, 1) after resizing",
        )
    return np.round(image * 255).astype(np.uint8)
