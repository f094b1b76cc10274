"""Decoding, sizes, orientation and paths."""

import os
import pickle
import struct
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regionspot_cache.datasets.images import (
    ImageFailure,
    content_hash,
    image_size,
    read_file,
    read_image,
    resolve_image,
    safe_file_name,
)
from regionspot_cache.errors import InputError

RGB = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3) * 3
SHARED = Path(__file__).parents[2].parent / "shared" / "real-images" / "images"


def saved(path: Path, mode: str = "RGB", **options: object) -> Path:
    Image.fromarray(RGB).convert(mode).save(path, **options)
    return path


def reason(path: Path, **options: object) -> str:
    with pytest.raises(ImageFailure) as caught:
        read_image(path, **options)
    assert str(path) in caught.value.detail
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason  # noqa: S301 - own bytes
    return caught.value.reason


def test_rgb_pixels_come_back_as_they_were(tmp_path: Path) -> None:
    pixels = read_image(saved(tmp_path / "a.png"), expected_size=(4, 6))
    np.testing.assert_array_equal(pixels, RGB)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("P", "png"),
        ("P", "gif"),
        ("L", "png"),
        ("1", "png"),
        ("LA", "png"),
        ("RGBA", "png"),
        ("CMYK", "jpg"),
        ("L", "jpg"),
    ],
)
def test_every_pixel_format_becomes_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    path = saved(tmp_path / f"a.{suffix}", mode)
    pixels = read_image(path)
    assert pixels.shape == (6, 4, 3)
    if suffix == "png":
        np.testing.assert_array_equal(pixels, np.array(Image.fromarray(RGB).convert(mode).convert("RGB")))


def test_a_palette_with_transparency_raises_no_warning(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", "P", transparency=bytes([0, 128, 255]))
    assert read_image(path).shape == (6, 4, 3)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 24, dtype=np.uint16).reshape(6, 4)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(values).save(path)
    np.testing.assert_array_equal(read_image(path)[:, :, 1], values >> 8)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((3, 3), np.float32)).save(tmp_path / "a.tif")
    assert reason(tmp_path / "a.tif") == "undecodable"


def test_truncated_broken_missing_and_empty_files_are_told_apart(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    assert reason(tmp_path / "cut.jpg") == "undecodable"
    assert reason(tmp_path / "text.jpg") == "undecodable"
    assert reason(tmp_path / "empty.jpg") == "undecodable"
    assert reason(tmp_path / "none.jpg") == "missing"
    assert reason(tmp_path) == "missing"
    assert image_size(tmp_path / "cut.jpg") == (64, 64)
    with pytest.raises(ImageFailure, match="missing"):
        image_size(tmp_path / "none.jpg")


def test_a_size_that_disagrees_with_the_annotation_is_a_failure(tmp_path: Path) -> None:
    assert reason(saved(tmp_path / "a.png"), expected_size=(6, 4)) == "size mismatch"


def test_very_wide_images_are_read_and_enormous_ones_refused(tmp_path: Path) -> None:
    Image.new("L", (20_000, 3_000)).save(tmp_path / "wide.png")
    assert read_image(tmp_path / "wide.png").shape == (3_000, 20_000, 3)
    assert reason(tmp_path / "wide.png", max_pixels=50_000_000) == "too large"
    Image.new("1", (20_000, 9_500)).save(tmp_path / "bomb.png")  # more than Pillow itself accepts
    assert reason(tmp_path / "bomb.png") == "too large"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_only_when_asked(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(RGB)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    upright.save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path, expected_size=(4, 6)), RGB)
    turned = read_image(path, exif="apply")
    size = (6, 4) if orientation > 4 else (4, 6)
    assert image_size(path) == (4, 6)
    assert turned.shape[1::-1] == size
    first_pixel = {1: (0, 0), 2: (0, 3), 3: (5, 3), 4: (5, 0), 5: (0, 0), 6: (5, 0), 7: (5, 3), 8: (0, 3)}
    np.testing.assert_array_equal(turned[0, 0], RGB[first_pixel[orientation]])
    if orientation > 4:
        assert reason(path, exif="apply", expected_size=(4, 6)) == "size mismatch"


@pytest.mark.parametrize(
    "entry",
    [
        *(struct.pack(">HIHH", 3, 1, number, 0) for number in (0, 9, 65535)),
        struct.pack(">HI4s", 2, 2, b"6"),
        struct.pack(">HIf", 11, 1, 6.5),
        struct.pack(">HII", 5, 1, 0),
    ],
)
def test_an_orientation_that_there_is_not_turns_nothing(tmp_path: Path, entry: bytes) -> None:
    """Unknown numbers, a text, a fraction, and one whose place is the header."""
    tags = struct.pack(">HH", 1, 0x0112) + entry + bytes(4)
    path = saved(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08" + tags)
    np.testing.assert_array_equal(read_image(path, exif="apply"), read_image(path))
    assert image_size(path) == (4, 6)


def test_what_is_no_file_is_missing_and_a_file_without_end_too_large(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")  # opened, it would block
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    for name in ("pipe.jpg", "loop.jpg", "x" * 5000 + ".jpg", "a\0b.jpg", "."):
        for read in (read_image, image_size):
            with pytest.raises(ImageFailure) as caught:
                read(tmp_path / name)
            assert caught.value.reason == "missing"
    assert reason(Path("/dev/zero")) == "missing"
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(1 << 40)
    assert reason(tmp_path / "sparse.jpg") == "too large"


def test_names_in_a_failure_are_printable(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[31m\n.jpg").write_bytes(b"text")
    with pytest.raises(ImageFailure, match=r"a\\x1b\[31m") as caught:
        read_image(tmp_path / "a\x1b[31m\n.jpg")
    assert "\x1b" not in str(caught.value)


def test_broken_exif_is_no_orientation(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken")
    np.testing.assert_array_equal(read_image(path, exif="apply"), read_image(path))


def test_reading_in_threads_leaves_the_warning_filters_alone(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{i}.png", "P", transparency=b"\0") for i in range(40)]
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_image, paths))
    assert warnings.filters == before


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../a.png",
        "x/../../a.png",
        "",
        ".",
        "a\0.png",
        "..\\a.png",
        "\\a.png",
        "C:\\a.png",
        "\udcff.png",
    ],
)
def test_names_that_leave_the_root_are_refused(tmp_path: Path, name: str) -> None:
    assert safe_file_name(name) is None
    with pytest.raises(InputError, match="leaves the image folder"):
        resolve_image(tmp_path, name)


def test_links_out_of_the_root_are_refused_and_a_linked_root_is_not(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    saved(outside / "a.png")
    (root / "file.png").symlink_to(outside / "a.png")
    (root / "folder").symlink_to(outside)
    (root / "inside.png").symlink_to(root / "b.png")
    saved(root / "b.png")
    for name in ("file.png", "folder/a.png", "folder/none.png"):
        with pytest.raises(InputError, match="leaves"):
            resolve_image(root, name)
    assert read_image(resolve_image(root, "inside.png")).shape == (6, 4, 3)
    (tmp_path / "link").symlink_to(root)
    assert resolve_image(tmp_path / "link", "b.png").is_file()


def test_names_are_found_in_either_unicode_form_and_with_backslashes(tmp_path: Path) -> None:
    (tmp_path / "ü").mkdir()
    decomposed = unicodedata.normalize("NFD", "ü/é 日本.png")
    composed = unicodedata.normalize("NFC", "ü/é 日本.png")
    (tmp_path / decomposed).parent.mkdir(exist_ok=True)
    saved(tmp_path / decomposed)
    assert resolve_image(tmp_path, composed).is_file()
    assert resolve_image(tmp_path, composed.replace("/", "\\")).is_file()
    assert resolve_image(tmp_path, "./ü//none.png") == tmp_path / "ü" / "none.png"


@given(st.text(alphabet=st.sampled_from("a.b/\\\0:~ é"), max_size=12))
def test_no_name_resolves_outside_the_root(name: str) -> None:
    root = Path("/nonexistent/root")
    try:
        path = resolve_image(root, name)
    except InputError:
        return
    assert root in path.resolve().parents


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real images beside the repository")
def test_real_photographs_decode_like_pillow() -> None:
    for path in sorted(SHARED.glob("*.jpg"))[:5]:
        expected = np.array(Image.open(path).convert("RGB"))
        np.testing.assert_array_equal(read_image(path, expected_size=image_size(path)), expected)


def test_the_stamp_of_a_file_is_its_length_its_time_and_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"content")
    os.utime(path, ns=(1, 1_700_000_000_123_456_789))
    data, stamp = read_file(path)
    assert data == b"content"
    assert stamp == (7, 1_700_000_000_123_456_789, content_hash(b"content"))
    path.write_bytes(b"Content")
    os.utime(path, ns=(1, 1_700_000_000_123_456_789))
    assert read_file(path)[1][:2] == stamp[:2]
    assert read_file(path)[1] != stamp


@given(st.binary(max_size=40))
def test_hashes_of_content_are_numbers_that_the_cache_can_hold(data: bytes) -> None:
    assert 0 <= content_hash(data) < 2**63
    assert content_hash(data) == content_hash(bytes(data)) != content_hash(data + b"x")
