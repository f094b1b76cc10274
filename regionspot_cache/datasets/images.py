"""Image files: where they may lie, how they are decoded, and what can be wrong with them.

Pixels are uint8 RGB [H, W, 3], decoded by Pillow, or as Pillow does, at the size that annotations speak of.
"""

import hashlib
import io
import os
import threading
import unicodedata
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from regionspot_cache.datasets.values import is_utf8
from regionspot_cache.errors import InputError, printable

ExifRule = Literal["ignore", "apply"]
Decoder = Literal["pillow", "torchvision"]
"""What reads the pixels of RGB JPEG files; all else, and every check, is Pillow's."""

MISSING = "missing"
UNDECODABLE = "undecodable"
SIZE_MISMATCH = "size mismatch"
OUTSIDE_ROOT = "outside root"
TOO_LARGE = "too large"

# Twice Pillow's warning threshold, at which Pillow itself refuses: 537 MB of RGB.
MAX_PIXELS = 178_956_970
_MAX_BYTES = 8 * MAX_PIXELS  # of a file: four 16-bit channels, not compressed

_ORIENTATION_TAG = 0x0112
_Turn = Image.Transpose
_TURNS = {  # EXIF orientation -> what brings the image upright (EXIF 2.32, 4.6.4)
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}
# `warnings.catch_warnings` changes global state, and images are read by several threads.
_warnings_lock = threading.Lock()


class ImageFailure(Exception):  # noqa: N818 - a counted outcome of reading, not an error of the program
    """One image cannot be used: `reason` is one of those above, `detail` names the file and the fault."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, (detail := printable(detail))
        super().__init__(reason, detail)

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def safe_file_name(file_name: str) -> str | None:
    """`file_name` as a clean relative path with forward slashes, or None when it could leave its folder.

    Backslashes count as separators: annotation files written on Windows carry them.
    """
    parts = [part for part in file_name.replace("\\", "/").split("/") if part not in ("", ".")]
    absolute = file_name.startswith(("/", "\\")) or file_name[1:2] == ":"
    if absolute or not parts or ".." in parts or "\0" in file_name or not is_utf8(file_name):
        return None
    return "/".join(parts)


def resolve_image(root: Path, file_name: str) -> Path:
    """The path of an image below `root`; the file itself need not exist.

    `root` may be a link, but nothing below it may lead outside; then, and for names that are absolute or
    contain `..` or NUL, it raises InputError. Names that differ from the file's only in Unicode normalisation
    (NFC, NFD) are found.
    """
    name = safe_file_name(file_name)
    if name is None:
        raise _outside(root, file_name)
    path = root / name
    if not os.path.lexists(path):
        others = (root / unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
        path = next((other for other in others if os.path.lexists(other)), path)
    real_root = os.path.realpath(root)
    if os.path.commonpath([real_root, os.path.realpath(path)]) != real_root:
        raise _outside(root, file_name)
    return path


def find_image(root: Path, file_name: str) -> Path:
    """`resolve_image` for work that counts failures instead of stopping: raises ImageFailure."""
    try:
        return resolve_image(root, file_name)
    except InputError as error:
        raise ImageFailure(OUTSIDE_ROOT, error.found) from None


def read_image(
    path: Path,
    *,
    expected_size: tuple[int, int] | None = None,
    exif: ExifRule = "ignore",
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.uint8]:
    """Decodes an image file; `read_file` and `decode_image` in one."""
    return decode_image(
        read_file(path)[0], path, expected_size=expected_size, exif=exif, max_pixels=max_pixels
    )


FileStamp = tuple[int, int, int]
"""What identifies a file: its bytes, its time of change in nanoseconds, and a 63-bit hash of its content."""


def content_hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1


def read_file(path: Path) -> tuple[bytes, FileStamp]:
    """The bytes of an image file and its stamp; ImageFailure when it cannot be read or is too large."""
    with _failures_of(path), _open_file(path) as file:
        status = os.fstat(file.fileno())
        if status.st_size > _MAX_BYTES:
            raise ImageFailure(TOO_LARGE, f"{status.st_size} bytes; at most {_MAX_BYTES} are read")
        data = file.read()
        return data, (len(data), status.st_mtime_ns, content_hash(data))


def has_changed(root: Path, file_name: str, stamp: FileStamp) -> bool:
    """Whether an image file is another one than that of a stamp; one that is missing has not changed.

    The content is read only where the time differs. A stamp of zeros is of no file, and says nothing.
    """
    size, time, content = stamp
    if not size:
        return False
    try:
        path = find_image(root, file_name)
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) == (size, time):
            return False
        return status.st_size != size or content_hash(read_file(path)[0]) != content
    except (ImageFailure, OSError):
        return False


def decode_image(
    data: bytes,
    path: Path,
    *,
    expected_size: tuple[int, int] | None = None,
    exif: ExifRule = "ignore",
    max_pixels: int = MAX_PIXELS,
    jpeg: Callable[[bytes], NDArray[np.uint8] | None] | None = None,
) -> NDArray[np.uint8]:
    """Decodes the bytes of an image file to uint8 RGB [H, W, 3].

    Palettes, grey levels, CMYK and alpha are converted as `PIL.Image.convert("RGB")` does (alpha is dropped);
    of 16-bit grey levels the high byte is taken; of animations, the first frame.

    Args:
        path: where they come from, for messages.
        expected_size: annotated (width, height); a disagreement means that boxes would be misplaced.
        exif: "ignore" keeps the stored pixel order, "apply" turns the image by its EXIF orientation.
        max_pixels: larger images are refused before they are decoded.
        jpeg: gives the pixels of an RGB JPEG in Pillow's place; what it gives None for is Pillow's.

    Raises:
        ImageFailure: the image is undecodable, too large or not of the expected size.
    """
    with _failures_of(path):
        image = _open(io.BytesIO(data), max_pixels)
        orientation = _orientation(image) if exif == "apply" else 1
        size = image.size[::-1] if orientation in (5, 6, 7, 8) else image.size
        if expected_size is not None and size != tuple(expected_size):
            found, annotated = (f"{width} x {height}" for width, height in (size, expected_size))
            raise ImageFailure(SIZE_MISMATCH, f"{found} in the file, {annotated} annotated")
        plain = (image.format, image.mode) == ("JPEG", "RGB")
        pixels = jpeg(data) if jpeg is not None and plain else None
        pixels = to_rgb(image) if pixels is None else pixels
    turn = _TURNS.get(orientation)
    return pixels if turn is None else np.array(Image.fromarray(pixels).transpose(turn))


def image_size(path: Path, exif: ExifRule = "ignore") -> tuple[int, int]:
    """(width, height) by the header alone, as `decode_image` gives them; ImageFailure when that cannot be."""
    with _failures_of(path), _open_file(path) as file:
        image = _open(file, max_pixels=None)
        return image.size[::-1] if exif == "apply" and _orientation(image) in (5, 6, 7, 8) else image.size


def image_orientation(path: Path) -> int:
    """How EXIF says that an image is to be turned, 1 (not at all) to 8; ImageFailure as of `image_size`."""
    with _failures_of(path), _open_file(path) as file:
        found = _orientation(_open(file, max_pixels=None))
    return found if found in _TURNS else 1


def _outside(root: Path, file_name: str) -> InputError:
    return InputError(
        f"The image file name {file_name!r} leaves the image folder {root}.",
        "A relative path without `..` and without links that lead outside.",
        "Correct the annotation file, or give the real folder with --images DIR.",
    )


def _open_file(path: Path) -> BinaryIO:
    if not os.path.isfile(path):  # never raises, as Path.is_file does; keeps a named pipe from blocking
        raise ImageFailure(MISSING, "not a file")
    return path.open("rb")


def _open(file: BinaryIO, max_pixels: int | None) -> Image.Image:
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # broken metadata and large sizes: judged by what they do
        image = Image.open(file)
    pixels = image.width * image.height
    if max_pixels is not None and pixels > max_pixels:
        detail = f"{image.width} x {image.height} pixels; at most {max_pixels} pixels are decoded"
        raise ImageFailure(TOO_LARGE, detail)
    return image


def _orientation(image: Image.Image) -> int:
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        except Exception:  # whatever a broken EXIF block makes Pillow raise: it states no orientation
            return 1
    return orientation if isinstance(orientation, int) else 1


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """What `decode_image` makes of an open image; raises ImageFailure, and whatever Pillow does."""
    image.load()
    if image.mode.startswith("I"):  # 16-bit grey levels; Pillow's own conversion saturates them at 255
        grey = (np.clip(np.asarray(image).astype(np.int32), 0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ImageFailure(UNDECODABLE, "floating-point pixels have no defined range")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # going to RGB directly makes Pillow warn
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))  # converting would copy it too


@contextmanager
def _failures_of(path: Path) -> Generator[None]:
    """Turns all that Pillow and the system raise into an ImageFailure that names the file."""
    try:
        yield
    except ImageFailure as failure:
        raise ImageFailure(failure.reason, f"{path}: {failure.detail}") from None
    except Image.DecompressionBombError as error:
        raise ImageFailure(TOO_LARGE, f"{path}: {error}") from error
    except MemoryError as error:
        raise ImageFailure(TOO_LARGE, f"{path}: not enough memory to decode it") from error
    except UnidentifiedImageError as error:
        raise ImageFailure(UNDECODABLE, f"{path} is not an image") from error
    except Exception as error:
        raise ImageFailure(UNDECODABLE, f"{path}: {error or type(error).__name__}") from error
