"""Annotation files in the manner of COCO: COCO, LVIS, Objects365, V3Det and anyone's own."""

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np

from regionspot_cache.datasets.assemble import assemble, require_pixels
from regionspot_cache.datasets.columns import EntryReader, read_columns
from regionspot_cache.datasets.layouts import choose_layout, coco_patterns
from regionspot_cache.datasets.minival import MINIVAL, WHOLE, images_in_folder
from regionspot_cache.datasets.objects365 import correct_o365_spelling, require_o365
from regionspot_cache.datasets.records import DetectionDataset
from regionspot_cache.datasets.regions import BoxPolicy


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
    known_names: Collection[str] | None = None,
    folder: str | None = None,
    also: EntryReader | None = None,
) -> DetectionDataset:
    """Reads one annotation file in a single pass; memory grows with the number of boxes, 33 bytes each.

    Classes come from the file, sorted by id, names stripped; equal names stay apart. Images without boxes are
    kept. Annotated boxes are in the stored pixel order of the image, so EXIF orientation is ignored.

    Args:
        file: JSON with `images`, `annotations`, `categories`, in any order.
        name: of the dataset; by default the stem of the file. The split is guessed from it too.
        roots: folders in which images are looked for; by default that of the file and the one above.
        o365: "o365", "o365v1" or "o365v2" when the file must be of (that release of) Objects365.
        correct_spelling: mend the misspelt class names of Objects365 v2.
        require_images: raise when not one image is found.
        known_names: as of `choose_layout`.
        folder: only the images that the file places in this folder.
        also: given every entry of the file, for a second reader in the same pass.

    Raises:
        MissingFileError: the file, or every image, is missing.
        InputError: broken JSON, missing keys, ids that repeat, classes that are not listed, boxes that are no
            pixels or corners, another Objects365 release, no image in `folder`.
    """
    columns = read_columns(file, also)
    kind = columns.format
    if o365 is not None:
        require_o365(kind, o365, columns.names_by_id, file)
        name = name or kind
    if kind == "o365v2":
        columns.drop_absent_images()
    categories = sorted(columns.categories)
    category_ids = np.array([category.id for category in categories], np.int64)
    class_names = tuple(category.name for category in categories)
    if kind == "o365v2" and correct_spelling:
        class_names = tuple(map(correct_o365_spelling, class_names))
    split = guess_split(file) if split is None else split
    names = columns.file_names
    chosen = images_in_folder(file, names, folder) if folder else range(len(names))
    root, pattern = choose_layout(
        [names[i] for i in chosen],
        roots or (file.parent, file.parent.parent),
        coco_patterns(WHOLE if split == MINIVAL else split),
        required=require_images,
        known_names=known_names,
    )
    widths, heights = np.array(columns.widths, np.int32), np.array(columns.heights, np.int32)
    boxes = columns.boxes(category_ids, file)
    require_pixels(boxes, widths, heights, file)
    dataset = assemble(
        boxes,
        name=name or file.stem,
        split=split,
        format=kind,
        image_root=root,
        annotation_files=(file,),
        annotation_sha256=columns.sha256,
        class_names=class_names,
        category_ids=category_ids,
        class_frequency=tuple(category.frequency for category in categories),
        class_novel=tuple(category.novel for category in categories),
        image_ids=columns.image_ids,
        file_names=[pattern(file_name) for file_name in names],
        widths=widths,
        heights=heights,
        dropped=columns.dropped,
        policy=policy or BoxPolicy(),
    )
    return dataset.select(np.array(chosen, np.int64)) if folder else dataset


def guess_split(file: Path) -> str:
    """ "train", "val", "minival" or "test" when the file's name has that word, else ""."""
    words = re.findall(r"train|minival|val|test", file.stem.lower())
    return words[-1] if words else ""
