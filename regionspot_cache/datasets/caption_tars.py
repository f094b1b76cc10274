"""Captioned images in WebDataset tar files, whose images are unpacked: extraction reads files."""

import json
import os
import shutil
import tarfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from regionspot_cache.datasets.captions import CaptionedImages, Pairs
from regionspot_cache.datasets.columns import UNSAFE_NAME
from regionspot_cache.datasets.images import MAX_PIXELS, TOO_LARGE, is_utf8, resolve_image, safe_file_name
from regionspot_cache.datasets.values import ENTRY_ERRORS
from regionspot_cache.errors import InputError, MissingFileError
from regionspot_cache.files import replacing

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
_EXPECTED = "Files KEY.jpg (.jpeg, .png, .webp) and KEY.txt, or KEY.json with `caption`, in a tar file."
_MAX_IMAGE = 8 * MAX_PIXELS  # bytes, as of an image that is read
_MAX_TEXT = 1 << 20  # bytes of one .txt or .json


def read_webdataset(place: Path, images: Path | None = None, *, unpack: bool = True) -> CaptionedImages:
    """Reads a tar file, or all `*.tar` of a folder, in one pass each; unpacks images not there yet.

    KEY is the path in the tar up to the first dot of the last part; its image becomes TAR/KEY.jpg in the
    image folder, and this is its id. A .txt is one caption; `caption` of a .json is one or a list of
    them, for images without a .txt. Other members, links and devices are passed over.

    Args:
        place: the file or the folder.
        images: folder to unpack into; by default PLACE-images beside `place`.
        unpack: without, images are listed only.

    Raises:
        MissingFileError: no tar file.
        InputError: a broken tar file or caption, an image folder in which a link leads out.
    """
    tars = sorted(place.glob("*.tar")) if place.is_dir() else [place]
    if not tars or not tars[0].is_file():
        raise MissingFileError(f"There is no tar file {place}.", _EXPECTED, "Check the path.")
    root = images or place.with_name(f"{place.stem}-images")
    pairs = Pairs()
    for tar in tars:
        with _broken(tar):
            _read_tar(tar, root, pairs, unpack)
    return pairs.finish(place, (root,), required=False, own_ids=False)


def _read_tar(tar: Path, root: Path, pairs: Pairs, unpack: bool) -> None:
    """Adds the pairs of one tar file, and writes its images below `root`."""
    names: dict[str, str] = {}  # key -> name of its image
    texts: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    for member, data in _members(tar):
        name = safe_file_name(member.name)
        folder, slash, last = (name or member.name).rpartition("/")
        key, _, ending = last.partition(".")
        key, ending = folder + slash + key, ending.lower()
        if name is None:
            pairs.dropped[UNSAFE_NAME] += ending in IMAGE_ENDINGS
        elif ending in IMAGE_ENDINGS and member.size > _MAX_IMAGE:
            pairs.dropped[f"image: {TOO_LARGE}"] += 1
        elif ending in IMAGE_ENDINGS:
            names[key] = f"{tar.stem}/{key}.{ending}"
            if unpack:
                _unpack(data, member.size, root, names[key])
        elif ending == "txt":
            texts[key] = _text(data, tar, member)
        elif ending == "json":
            lists[key] = _captions(_text(data, tar, member), tar, member)
    for key in names | texts | lists:
        image_id = names.get(key, f"{tar.stem}/{key}")
        if key in names:
            pairs.add_image(image_id, image_id)
        for caption in [texts[key]] if key in texts else lists.get(key, []):
            pairs.add_caption(image_id, caption)


def _members(tar: Path) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """The ordinary files of a tar file in their order, each with its content, to be read before the next."""
    with tarfile.open(tar, "r|*") as archive:
        for member in archive:
            if member.isreg() and (data := archive.extractfile(member)) is not None:
                yield member, data


@contextmanager
def _broken(tar: Path) -> Generator[None]:
    """Turns what a tar file that is not whole raises, wherever it is read, into the project's error."""
    try:
        yield
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a full disk, not a broken file
            raise
        raise InputError(f"{tar} is not a whole tar file: {error}.", _EXPECTED, "Fetch it again.") from None


def _unpack(data: IO[bytes], size: int, root: Path, name: str) -> None:
    """Writes an image below `root`, whole or not at all; leaves one of its size alone."""
    path = resolve_image(root, name)  # raises where a link leads out
    if os.path.isfile(path) and os.path.getsize(path) == size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as staging, staging.open("wb") as file:
        shutil.copyfileobj(data, file)


def _text(data: IO[bytes], tar: Path, member: tarfile.TarInfo) -> str:
    try:
        if member.size > _MAX_TEXT:
            raise ValueError(f"{member.size} bytes")
        return data.read().decode("utf-8-sig")
    except ValueError as error:
        raise _unusable(tar, member, str(error)) from None


def _captions(text: str, tar: Path, member: tarfile.TarInfo) -> list[str]:
    """The caption or captions of a .json; none where it has no such key."""
    try:
        found = json.loads(text).get("caption", [])
    except (*ENTRY_ERRORS, RecursionError) as error:
        raise _unusable(tar, member, str(error)) from None
    captions = [found] if isinstance(found, str) else found
    if not isinstance(captions, list) or not all(map(_is_text, captions)):
        raise _unusable(tar, member, "`caption` is neither a text nor a list of texts")
    return captions


def _is_text(value: object) -> bool:
    return isinstance(value, str) and is_utf8(value)


def _unusable(tar: Path, member: tarfile.TarInfo, problem: str) -> InputError:
    return InputError(f"{tar}: {member.name} is no caption: {problem}.", _EXPECTED, "Correct the member.")
