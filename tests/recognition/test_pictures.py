"""Images in whatever people hold them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from regionspot_cache.errors import InputError
from regionspot_cache.recognition.pictures import to_pixels

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
GREY = RGB[..., 0]
GREY_RGB = np.repeat(GREY[..., None], 3, axis=2)
ALPHA = np.concatenate([RGB, GREY[..., None]], axis=2)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (RGB, RGB),
        (np.asfortranarray(RGB), RGB),
        (GREY, GREY_RGB),
        (GREY[..., None], GREY_RGB),
        (ALPHA, RGB),
        (RGB / 255, RGB),
        ((ALPHA / 255).astype(np.float16), RGB),
        (RGB.astype(np.float32) / 255, RGB),
        (torch.from_numpy(RGB).permute(2, 0, 1), RGB),
        (torch.from_numpy(RGB).permute(2, 0, 1) / 255, RGB),
        (torch.from_numpy(GREY), GREY_RGB),
        (torch.from_numpy(GREY)[None].to(torch.float64).requires_grad_() / 255, GREY_RGB),
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(GREY), GREY_RGB),
        (Image.fromarray(ALPHA), RGB),
        (Image.fromarray(GREY.astype(np.uint16) * 256 + 7), GREY_RGB),
        (Image.fromarray(GREY > 127), GREY_RGB // 128 * 255),
    ],
)
def test_what_becomes_of_images(image: Any, expected: np.ndarray) -> None:
    found = to_pixels(image)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", ["P", "PA", "LA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_modes_of_pil_are_those_of_files(mode: str) -> None:
    through = {"RGBa": "RGBA", "PA": "RGBA", "LA": "RGBA", "HSV": "RGB"}
    image = Image.fromarray(RGB).convert(through.get(mode, "RGB")).convert(mode)
    np.testing.assert_array_equal(to_pixels(image), np.array(image.convert("RGB")))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.full((4, 4, 3), 200.0), "np.clip"),
        (np.full((4, 4, 3), 1.01), "from 1.01 to 1.01"),
        (np.full((4, 4, 3), -0.1), "from 0 to 1"),
        (np.full((4, 4, 3), np.nan), "nan"),
        (np.zeros((4, 4, 3), np.int64), "astype"),
        (np.zeros((4, 4), bool), "bool"),
        (np.zeros((3, 8, 9), np.uint8), "transpose"),
        (np.zeros((2, 4, 4, 3), np.uint8), "2, 4, 4, 3"),
        (np.zeros((0, 4, 3), np.uint8), "0, 4, 3"),
        (torch.zeros(8, 9, 3), "permute"),
        (torch.zeros(2, 3, 8, 9), "2, 3, 8, 9"),
        (Image.new("F", (3, 3)), "mode F"),
        (Image.new("La", (3, 3)), "mode La"),
        ([RGB, RGB], "predict_batch"),
        (None, "NoneType"),
        (Path("nowhere.jpg"), "nowhere.jpg"),
    ],
)
def test_what_is_no_image_or_ambiguous(image: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        to_pixels(image)
    assert says in str(caught.value)


def test_a_broken_picture_and_a_link(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "whole.png")
    np.testing.assert_array_equal(to_pixels(str(tmp_path / "whole.png")), RGB)
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    with Image.open(tmp_path / "half.png") as broken, pytest.raises(InputError, match="mode RGB"):
        to_pixels(broken)
