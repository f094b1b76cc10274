"""Annotation files in the manner of COCO: COCO, LVIS, Objects365, V3Det and anyone's own."""

import re
from pathlib import Path

import numpy as np

from regionspot_cache.datasets.assemble import group_and_clean
from regionspot_cache.datasets.columns import Columns, EntryReader, read_columns
from regionspot_cache.datasets.formats import correct_o365_spelling, require_o365
from regionspot_cache.datasets.layouts import choose_layout, coco_patterns
from regionspot_cache.datasets.minival import MINIVAL, WHOLE, images_in_folder
from regionspot_cache.datasets.records import DetectionDataset
from regionspot_cache.datasets.regions import BoxPolicy
from regionspot_cache.datasets.units import require_pixels


def read_coco_style(
    file: Path,
    *,
    name: str | None = None,
    split: str | None = None,
    roots: tuple[Path, ...] = (),
    policy: BoxPolicy | None = None,
    o365: str | None = None,
    correct_spelling: bool = False,
    require_images: bool = True,
    folder: str | None = None,
    also: EntryReader | None = None,
) -> DetectionDataset:
    """Reads one annotation file in a single pass; memory grows with the number of boxes, 33 bytes each.

    Classes come from the file, sorted by id, names stripped; equal names stay apart. Images without boxes are
    kept. Annotated boxes are in the stored pixel order of the image, so EXIF orientation is ignored.

    Args:
        file: JSON with `images`, `annotations`, `categories`, in any order.
        name: of the dataset; by default the stem of the file.
        split: by default guessed from the file's name.
        roots: folders in which images are looked for; by default that of the file and the one above.
        policy: how boxes are cleaned, `BoxPolicy()` by default.
        o365: "o365", "o365v1" or "o365v2" when the file must be of (that release of) Objects365.
        correct_spelling: mend the misspelt class names of Objects365 v2.
        require_images: raise when not one image is found.
        folder: only the images that the file places in this folder.
        also: given every entry of the file, for a second reader in the same pass.

    Raises:
        MissingFileError: the file, or every image, is missing.
        InputError: broken JSON, missing keys, ids that repeat, classes that are not listed, boxes that are no
            pixels or corners, another Objects365 release, no image in `folder`.
    """
    columns = read_columns(file, also)
    columns.check(file)
    if o365 is not None:
        require_o365(columns.format, o365, columns.names_by_id, file)
        name = name or columns.format
    if columns.format == "o365v2":
        columns.drop_absent_images()
        if correct_spelling:
            columns.rename_classes(correct_o365_spelling)
    split = guess_split(file) if split is None else split
    roots = roots or (file.parent, file.parent.parent)
    chosen = images_in_folder(file, columns.file_names, folder) if folder else range(len(columns.file_names))
    patterns = coco_patterns(WHOLE if split == MINIVAL else split)
    names = [columns.file_names[i] for i in chosen]
    root, pattern = choose_layout(names, roots, patterns, required=require_images)
    columns.file_names = [pattern(file_name) for file_name in columns.file_names]
    dataset = _dataset(columns, file, name or file.stem, split, root, policy or BoxPolicy())
    return dataset.select(np.array(chosen, np.int64)) if folder else dataset


def guess_split(file: Path) -> str:
    """ "train", "val", "minival" or "test" when the file's name has that word, else ""."""
    words = re.findall(r"train|minival|val|test", file.stem.lower())
    return words[-1] if words else ""


def _dataset(
    columns: Columns, file: Path, name: str, split: str, root: Path, policy: BoxPolicy
) -> DetectionDataset:
    categories = sorted(columns.categories, key=lambda category: category["id"])
    category_ids = np.array([category["id"] for category in categories], np.int64)
    widths, heights = np.array(columns.widths, np.int32), np.array(columns.heights, np.int32)
    boxes = columns.boxes(category_ids, file)
    require_pixels(boxes, widths, heights, file)
    grouped = group_and_clean(boxes, widths, heights, policy)
    return DetectionDataset(
        name=name,
        split=split,
        format=columns.format,
        image_root=root,
        annotation_files=(file,),
        annotation_sha256=columns.sha256,
        class_names=tuple(category["name"] for category in categories),
        category_ids=category_ids,
        class_frequency=tuple(category["frequency"] for category in categories),
        class_novel=tuple(category["novel"] for category in categories),
        image_ids=columns.image_ids,
        file_names=columns.file_names,
        widths=widths,
        heights=heights,
        offsets=grouped.offsets,
        boxes=grouped.boxes.boxes,
        labels=grouped.boxes.labels,
        annotation_ids=grouped.boxes.ids,
        crowd=grouped.boxes.crowd,
        dropped=columns.dropped + grouped.dropped,
        policy=policy,
        exif="ignore",
    )
