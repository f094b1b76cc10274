"""Captioned images: one record type, and its readers for JSON, TSV and WebDataset files.

Captions keep the order of their file, without repeated white space; an image keeps its first five, as in
RegionCLIP (Zhong et al., CVPR 2022). An image without a caption stays: its regions need none.
"""

import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np

from regionspot_cache.datasets.coco_style import guess_split
from regionspot_cache.datasets.columns import UNSAFE_NAME
from regionspot_cache.datasets.images import is_utf8, safe_file_name
from regionspot_cache.datasets.layouts import choose_layout, coco_patterns
from regionspot_cache.datasets.records import ImageId
from regionspot_cache.datasets.values import ENTRY_ERRORS, check_image_id
from regionspot_cache.errors import InputError
from regionspot_cache.files import open_file
from regionspot_cache.json_stream import JsonFile

MAX_CAPTIONS = 5  # of one image
EMPTY = "caption: empty"
BEYOND = f"caption: beyond the first {MAX_CAPTIONS} of its image"
NO_IMAGE = "caption: of an image that is not listed"
AMBIGUOUS = "image: several URLs end in its file name"

_CAPTION_COLUMNS = ("caption", "title")
_IMAGE_COLUMNS = ("file_name", "filepath", "file", "image", "url")
_TSV = "Lines `caption<TAB>file name or URL`, in UTF-8; or a header that names `caption` and `file_name`."


class CaptionedImage(NamedTuple):
    """One image.

    Attributes:
        image_id: that of the file; in formats without ids the file name.
        file_name: relative to the image folder, forward slashes.
        captions: at most five, not empty; there may be none.
    """

    image_id: ImageId
    file_name: str
    captions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CaptionedImages:
    """Captioned images in the order of their source: some 400 bytes an image.

    Attributes:
        name: of the source.
        image_root: folder that file names are relative to.
        own_ids: the source has image ids of its own; without, they are file names.
        records: the images.
        dropped: what was left out, by reason; reasons begin with "image: " or "caption: ".
    """

    name: str
    image_root: Path
    own_ids: bool
    records: Sequence[CaptionedImage]
    dropped: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def num_captions(self) -> int:
        return sum(len(record.captions) for record in self.records)

    def sample(self, limit: int | None, seed: int = 0) -> Sequence[CaptionedImage]:
        """`limit` records drawn as `DetectionDataset.sample` draws them, in their old order."""
        if limit is None or limit >= len(self):
            return self.records
        chosen = np.random.default_rng(seed).choice(len(self), size=limit, replace=False)
        return [self.records[i] for i in np.sort(chosen)]

    def sha256(self) -> str:
        """Hex digest of all records."""
        digest = hashlib.sha256()
        for record in self.records:
            digest.update(json.dumps(record).encode() + b"\n")
        return digest.hexdigest()


class Pairs:
    """Collects images and captions, in any order; ids match as 7 or "7"."""

    def __init__(self) -> None:
        self.images: dict[str, tuple[ImageId, str]] = {}
        self.captions: defaultdict[str, list[str]] = defaultdict(list)
        self.dropped: Counter[str] = Counter()

    def add_image(self, image_id: Any, file_name: Any) -> None:
        """Raises ENTRY_ERRORS for what is no id or no name, and for an id that was there before."""
        check_image_id(image_id)
        if str(image_id) in self.images:
            raise ValueError("its id is listed more than once")
        name = safe_file_name(file_name)
        if name is None:
            self.dropped[UNSAFE_NAME] += 1
        else:
            self.images[str(image_id)] = image_id, name

    def add_caption(self, image_id: Any, text: Any) -> None:
        """Raises ENTRY_ERRORS for what is no id or no text."""
        check_image_id(image_id)
        if not isinstance(text, str) or not is_utf8(text):
            raise TypeError("its caption is no text")
        text, kept = " ".join(text.split()), self.captions[str(image_id)]
        if text and len(kept) < MAX_CAPTIONS:
            kept.append(text)
        else:
            self.dropped[BEYOND if text else EMPTY] += 1

    def finish(self, source: Path, roots: Sequence[Path], required: bool, own_ids: bool) -> CaptionedImages:
        """The images with their captions; `required` that some of the image files are there.

        Raises:
            InputError: no images.
            MissingFileError: as of `choose_layout`.
        """
        if not self.images:
            counts = "".join(f"; {count} x {reason}" for reason, count in self.dropped.items())
            raise InputError(
                f"{source} lists no usable image{counts}.", "Captioned images.", "Check the file."
            )
        root, pattern = choose_layout(
            [name for _, name in self.images.values()],
            roots,
            coco_patterns(guess_split(source)),
            required=required,
        )
        records = [
            CaptionedImage(image_id, pattern(name), tuple(self.captions.pop(key, ())))
            for key, (image_id, name) in self.images.items()
        ]
        if lost := sum(map(len, self.captions.values())):
            self.dropped[NO_IMAGE] += lost
        return CaptionedImages(
            name=source.stem, image_root=root, own_ids=own_ids, records=records, dropped=self.dropped
        )


def read_caption_json(file: Path, images: Path | None = None, *, required: bool = True) -> CaptionedImages:
    """Reads a JSON file with `images` (`id`, `file_name` or `coco_url`) and captions, in one pass.

    Captions are entries {"image_id", "caption"} of `annotations` (COCO) or `captions`, or stand as `caption`
    in the images themselves, as in the built-in world. Annotations without a caption are boxes: passed over.

    Args:
        file: the file.
        images: image folder; by default that of the file and the one above.
        required: raise when not one image file is found.

    Raises:
        MissingFileError: the file, or every image, is missing.
        InputError: broken JSON, no `images`, entries that cannot be used, an id that is listed twice.
    """
    pairs, content = Pairs(), JsonFile(file)
    for key, entry in content.sections():
        try:
            add_entry(pairs, key, entry, with_images=True)
        except ENTRY_ERRORS as error:
            shown = entry.get("id", entry) if isinstance(entry, dict) else entry
            problem = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(
                f"{file}: the entry of `{key}` with {repr(shown)[:80]}: {problem}.",
                "Images with `id` and `file_name`; captions with `image_id` and `caption`.",
                "Correct or remove the entry.",
            ) from None
    if "images" not in content.arrays:
        found = f"{file} has no list `images`; it has {', '.join(content.keys) or 'no keys'}."
        raise InputError(found, "A caption file of COCO: `images` and `annotations`.", "Check the file.")
    return pairs.finish(file, _roots(file, images), required, own_ids=True)


def add_entry(pairs: Pairs, key: str, entry: Any, *, with_images: bool) -> None:
    """One entry of a section of a JSON file: its captions, and the image itself if wanted.

    Raises:
        ENTRY_ERRORS: as of `Pairs`.
    """
    if key == "images":
        if with_images:
            url = entry.get("coco_url")
            pairs.add_image(entry["id"], entry.get("file_name") or "/".join(url.split("/")[-2:]))
        if "caption" in entry:
            pairs.add_caption(entry["id"], entry["caption"])
    elif key == "captions" or (key == "annotations" and "caption" in entry):
        pairs.add_caption(entry["image_id"], entry["caption"])


def read_caption_tsv(file: Path, images: Path | None = None, *, required: bool = True) -> CaptionedImages:
    """Reads lines `caption<TAB>file name or URL`, as CC3M has them; quotes mean nothing.

    A first line that names the columns (`caption` or `title`; `file_name`, `filepath`, `file`, `image` or
    `url`) may put them in any order beside others. Of a URL the last part of the path is the file name; where
    different URLs end alike their images are left out: nobody could tell whose file it is. Lines of one image
    are its captions.

    Args:
        file: the file.
        images: image folder; by default that of the file and the one above.
        required: raise when not one image file is found.

    Raises:
        MissingFileError: the file, or every image, is missing.
        InputError: no UTF-8, or a line without its columns; names the line.
    """
    pairs, origins, ambiguous = Pairs(), {}, set()
    for number, caption, origin in _tsv_rows(file):
        name = safe_file_name(_name_in(origin))
        if name is None:
            pairs.dropped[UNSAFE_NAME] += 1
            continue
        if origins.setdefault(name, origin) != origin:
            ambiguous.add(name)
        try:
            if name not in pairs.images:
                pairs.add_image(name, name)
            pairs.add_caption(name, caption)
        except ENTRY_ERRORS as error:
            raise _bad_line(file, number, str(error)) from None
    for name in ambiguous:
        del pairs.images[name]
        del pairs.captions[name]
    pairs.dropped.update({AMBIGUOUS: len(ambiguous)} if ambiguous else {})
    return pairs.finish(file, _roots(file, images), required, own_ids=False)


def _roots(file: Path, images: Path | None) -> tuple[Path, ...]:
    return (images,) if images else (file.parent, file.parent.parent)


def _name_in(origin: str) -> str:
    return unquote(urlsplit(origin).path).rpartition("/")[2] if "://" in origin else origin


def _tsv_rows(file: Path) -> Iterator[tuple[int, str, str]]:
    """Yields line number, caption, and file name or URL."""
    caption, origin, width = 0, 1, 2
    with open_file(file, _TSV) as data, io.TextIOWrapper(data, encoding="utf-8-sig", newline="\n") as lines:
        try:
            for number, line in enumerate(lines, 1):
                cells = line.rstrip("\r\n").split("\t")
                if number == 1 and (columns := _header(cells)):
                    (caption, origin), width = columns, len(cells)
                elif len(cells) != width:
                    raise _bad_line(file, number, f"{len(cells)} columns, not {width}")
                else:
                    yield number, cells[caption], cells[origin].strip()
        except UnicodeDecodeError as error:
            raise InputError(f"{file} is not UTF-8 text: {error}.", _TSV, "Save it as UTF-8.") from None


def _header(cells: Sequence[str]) -> tuple[int, int] | None:
    """The places of caption and image in a line that names its columns."""
    names = [cell.strip().lower() for cell in cells]
    places = [_first(names, known) for known in (_CAPTION_COLUMNS, _IMAGE_COLUMNS)]
    return None if None in places else (places[0], places[1])  # type: ignore[return-value]


def _first(names: Sequence[str], known: Collection[str]) -> int | None:
    return next((names.index(word) for word in known if word in names), None)


def _bad_line(file: Path, number: int, problem: str) -> InputError:
    return InputError(f"{file}, line {number}: {problem}.", _TSV, "Correct the line.")
