"""What torchvision decodes against Pillow: the same pixels, and the same words for what cannot be decoded."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regionspot_cache.datasets.images import Decoder, ImageFailure, decode_image
from regionspot_cache.errors import UsageError
from regionspot_cache.extraction.loader import jpeg_decoder
from tests.backbones.small import picture

SHARED = Path(__file__).parents[2].parent / "shared" / "real-images" / "images"
TURNED = Image.Exif()
TURNED[0x0112] = 6


def file_of(
    mode: str = "RGB", form: str = "JPEG", size: tuple[int, int] = (61, 83), **options: object
) -> bytes:
    rough = Image.fromarray(picture(9, 7)).resize(size, Image.Resampling.BICUBIC)
    with io.BytesIO() as file:
        rough.convert(mode).save(file, form, **options)
        return file.getvalue()


def outcome(data: bytes, decoder: Decoder) -> np.ndarray | tuple[str, str]:
    try:
        return decode_image(data, Path("a.jpg"), exif="apply", jpeg=jpeg_decoder(decoder))
    except ImageFailure as failure:
        return failure.reason, failure.detail


@pytest.mark.parametrize(
    "data",
    [
        file_of(),
        file_of(quality=30, subsampling=0),
        file_of(quality=95, subsampling=1),
        file_of(progressive=True),
        file_of(restart_marker_blocks=2),
        file_of(size=(1, 1)),
        file_of(exif=TURNED),
        file_of("L"),
        file_of("CMYK"),
        file_of(form="PNG"),
        file_of("P", "PNG"),
        file_of(form="WEBP"),
        file_of()[:-400],
        file_of()[:-2],
        file_of(progressive=True)[:-400],
        file_of()[:700] + bytes(64) + file_of()[764:],
        file_of()[:100],
        b"\xff\xd8\xff",
        b"",
    ],
)
def test_every_file_ends_as_with_pillow(data: bytes) -> None:
    ours, theirs = outcome(data, "torchvision"), outcome(data, "pillow")
    assert type(ours) is type(theirs)
    np.testing.assert_array_equal(ours, theirs)


def test_whole_jpegs_are_decoded_by_torchvision() -> None:
    data = file_of(progressive=True)
    decode = jpeg_decoder("torchvision")
    assert decode is not None
    found = decode(data)
    assert found is not None
    assert (found.dtype, found.shape, found.flags.c_contiguous) == (np.uint8, (83, 61, 3), True)
    asked: list[bytes] = []
    decode_image(data, Path("a.jpg"), jpeg=asked.append)
    decode_image(file_of("CMYK"), Path("a.jpg"), jpeg=asked.append)
    assert asked == [data]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the photographs are not here")
def test_photographs_are_equal_to_the_bit() -> None:
    for path in sorted(SHARED.glob("*.jpg")):
        data = path.read_bytes()
        np.testing.assert_array_equal(outcome(data, "torchvision"), outcome(data, "pillow"))


def test_a_torchvision_that_does_not_decode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.ops.image", object())
    with pytest.raises(UsageError, match="decodes no JPEG files"):
        jpeg_decoder("torchvision")
