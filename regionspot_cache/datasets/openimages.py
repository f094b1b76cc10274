"""OpenImages V4 to V7: boxes from CSV files, class ids from the order of the class description file.

Boxes are in the stored pixel order of the images: the rotation column of the official image lists is for
image and boxes alike (storage.googleapis.com/openimages/web/2018-05-17-rotation-information.html). EXIF
orientation is therefore ignored, as for every other dataset.
"""

import csv
import hashlib
import io
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.datasets.assemble import FileBoxes, assemble
from regionspot_cache.datasets.columns import NO_SIZE, UNSAFE_NAME, require_unique
from regionspot_cache.datasets.images import ImageFailure, find_image, image_size, safe_file_name
from regionspot_cache.datasets.layouts import choose_layout, openimages_patterns
from regionspot_cache.datasets.records import DetectionDataset
from regionspot_cache.datasets.regions import BoxPolicy
from regionspot_cache.errors import InputError
from regionspot_cache.files import open_file

_BOX_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", "IsGroupOf")
_SIZE_COLUMNS = ("ImageID", "Width", "Height")
_HEADER_THREADS = 8  # opening a file costs more than parsing its header, above all on network disks


def read_openimages(
    boxes_csv: Path,
    classes_csv: Path,
    *,
    split: str,
    roots: Sequence[Path],
    sizes_csv: Path | None = None,
    name: str = "openimages",
    policy: BoxPolicy | None = None,
    require_images: bool = True,
    known_names: Collection[str] | None = None,
) -> DetectionDataset:
    """Reads one split. Images are those with boxes, in order of first appearance; their ids are text.

    Rows are grouped by image wherever they stand. `IsGroupOf` 1 makes a crowd box, 0 and -1 (unknown) do not.
    Labels are as annotated, not expanded through the class hierarchy (see `datasets.hierarchy`).

    Args:
        boxes_csv: `*-annotations-bbox.csv`; columns are found by name, coordinates are fractions.
        classes_csv: `class-descriptions-boxable.csv` or its V7 form with a header; class id = row, from 1.
        split: "train", "validation" or "test".
        roots: folders in which images are looked for.
        sizes_csv: columns ImageID, Width, Height; without it each image's header is read.
        require_images: raise when not one image is found; without `sizes_csv` that is always so.
        known_names: as of `choose_layout`; without `sizes_csv` the files decide.

    Raises:
        MissingFileError: every image is missing.
        InputError: missing columns, a label that the class file lacks, values that are no numbers.
    """
    mids, class_names = read_classes(classes_csv)
    image_ids, boxes, dropped = _read_boxes(boxes_csv, {mid: i for i, mid in enumerate(mids)}, classes_csv)
    root, pattern = choose_layout(
        [f"{image_id}.jpg" for image_id in image_ids],
        roots,
        openimages_patterns(split),
        required=require_images or sizes_csv is None,
        known_names=known_names if sizes_csv else None,
    )
    names = [pattern(f"{image_id}.jpg") for image_id in image_ids]
    sizes, without_size = _sizes(image_ids, names, root, sizes_csv)
    kept = np.flatnonzero(sizes.min(axis=1) > 0)
    digest = hashlib.sha256()
    for path in (boxes_csv, classes_csv):
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return assemble(
        _in_pixels(boxes, sizes, kept),
        name=name,
        split=split,
        format="openimages",
        image_root=root,
        annotation_files=(boxes_csv, classes_csv),
        annotation_sha256=digest.hexdigest(),
        class_names=tuple(class_names),
        category_ids=np.arange(1, len(mids) + 1),
        class_frequency=("",) * len(mids),
        class_novel=(False,) * len(mids),
        image_ids=[image_ids[i] for i in kept],
        file_names=[names[i] for i in kept],
        widths=sizes[kept, 0],
        heights=sizes[kept, 1],
        dropped=dropped + without_size,
        policy=policy or BoxPolicy(),
    )


def read_classes(file: Path) -> tuple[list[str], list[str]]:
    """MIDs and names of a class description file, in its order. Raises MissingFileError, InputError."""
    rows = [row for row in _rows(file) if row]
    if rows and rows[0][0] == "LabelName":  # V7 has a header, V4 to V6 have none
        rows = rows[1:]
    if not rows or any(len(row) < 2 for row in rows):
        found = f"{file} is not a list of classes."
        raise InputError(
            found, "Rows `MID,Name`, as in class-descriptions-boxable.csv.", "Fetch the file again."
        )
    mids = [row[0] for row in rows]
    require_unique(file, "class", mids)
    return mids, [row[1].strip() for row in rows]


def _read_boxes(
    file: Path, label_of: dict[str, int], classes_csv: Path
) -> tuple[list[str], FileBoxes, Counter[str]]:
    """Ids of the images, the boxes with corners in fractions (float64), and what was left out."""
    index_of: dict[str, int] = {}
    unsafe: set[str] = set()
    corners, ids, crowd = array("d"), array("q"), array("b")
    images, labels = array("q"), array("i")
    for number, (image_id, mid, x1, x2, y1, y2, group) in _columns(file, _BOX_COLUMNS):
        if mid not in label_of:
            raise InputError(
                f"Row {number} of {file} has label {mid!r}, which {classes_csv} lacks.",
                f"One of its {len(label_of)} classes.",
                "Take both files from the same release.",
            )
        index = index_of.get(image_id)
        if index is None:
            if safe_file_name(image_id) != image_id or "/" in image_id:
                unsafe.add(image_id)
                continue
            index = index_of[image_id] = len(index_of)
        try:
            corners.extend((float(x1), float(y1), float(x2), float(y2)))
        except ValueError as error:
            found = f"Row {number} of {file}: {error}."
            expected = "Fractions of the image in XMin, XMax, YMin, YMax."
            raise InputError(found, expected, "Fetch the file again.") from None
        images.append(index)
        labels.append(label_of[mid])
        ids.append(number)
        crowd.append(group == "1")
    if not index_of:
        raise InputError(f"{file} has no boxes.", "One row for each box.", "Fetch the file again.")
    boxes = FileBoxes(
        images=np.asarray(images),
        boxes=np.asarray(corners).reshape(-1, 4),
        labels=np.asarray(labels),
        ids=np.asarray(ids),
        crowd=np.asarray(crowd).astype(bool),
    )
    return list(index_of), boxes, Counter({UNSAFE_NAME: len(unsafe)} if unsafe else {})


def _in_pixels(boxes: FileBoxes, sizes: NDArray[np.int32], kept: NDArray[np.int64]) -> FileBoxes:
    """Boxes in pixels of the images [M, 2] and with indices among those that are `kept`."""
    index = np.full(len(sizes), -1, np.int64)
    index[kept] = np.arange(len(kept))
    with np.errstate(all="ignore"):  # what is too large or no number is dropped as such
        for axis in (0, 1):
            boxes.boxes[:, axis::2] *= sizes[boxes.images, axis, None]
        return replace(boxes, images=index[boxes.images], boxes=boxes.boxes.astype(np.float32))


def _columns(file: Path, names: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yields (row number from 1, values) of the named columns, wherever they stand."""
    rows = _rows(file)
    header = [_plain(column) for column in next(rows, [])]
    missing = [name for name in names if _plain(name) not in header]
    if missing:
        found = f"{file} has no column {missing[0]}; its columns are {', '.join(header)[:200]}."
        raise InputError(found, f"Columns {', '.join(names)}.", "Fetch the file again.")
    places = [header.index(_plain(name)) for name in names]
    for number, row in enumerate(rows, 1):
        if len(row) >= len(header):
            yield number, [row[place] for place in places]
        elif row:
            found = f"Row {number} of {file} has {len(row)} of {len(header)} columns."
            raise InputError(found, "A complete file.", "Fetch the file again.")


def _rows(file: Path) -> Iterator[list[str]]:
    with (
        open_file(file, "A CSV file of OpenImages.") as data,
        io.TextIOWrapper(data, encoding="utf-8-sig", newline="") as lines,
    ):
        try:
            yield from csv.reader(lines)
        except (UnicodeDecodeError, csv.Error) as error:
            found = f"{file} is not a CSV file: {error}."
            raise InputError(found, "A UTF-8 CSV file.", "Unpack it, or fetch it again.") from None


def _plain(column: str) -> str:
    return column.strip().lower().replace("_", "")


def _sizes(
    image_ids: Sequence[str], names: Sequence[str], root: Path, sizes_csv: Path | None
) -> tuple[NDArray[np.int32], Counter[str]]:
    """int32 [M, 2] width and height, 0 where unknown, and the reasons why."""
    if sizes_csv is not None:
        return _sizes_from_csv(image_ids, sizes_csv)
    sizes, dropped = np.zeros((len(names), 2), np.int32), Counter()

    def read(i: int) -> str | None:
        try:
            sizes[i] = image_size(find_image(root, names[i]))
        except ImageFailure as failure:
            return f"image: {failure.reason}"
        return None

    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        dropped.update(filter(None, pool.map(read, range(len(names)), chunksize=256)))
    return sizes, dropped


def _sizes_from_csv(image_ids: Sequence[str], file: Path) -> tuple[NDArray[np.int32], Counter[str]]:
    index_of = {image_id: i for i, image_id in enumerate(image_ids)}
    sizes = np.zeros((len(image_ids), 2), np.int32)
    for number, (image_id, width, height) in _columns(file, _SIZE_COLUMNS):
        if image_id in index_of:
            try:
                sizes[index_of[image_id]] = int(width), int(height)
            except (ValueError, OverflowError) as error:
                found = f"Row {number} of {file}: {error}."
                raise InputError(found, "Width and height in pixels.", "Correct the file.") from None
    unknown = int(np.count_nonzero(sizes.min(axis=1) <= 0))
    return sizes, Counter({NO_SIZE: unknown} if unknown else {})
