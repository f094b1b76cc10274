"""LVIS minival: the 4,809 images of LVIS v1 val that are in COCO val2017 (Kamath et al. 2021, MDETR).

Its numbers are higher than those of the whole split and never stand beside them.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from regionspot_cache.errors import InputError

MINIVAL, WHOLE = "minival", "val"
FOLDER = "val2017"


def images_in_folder(file: Path, names: Sequence[str], folder: str) -> list[int]:
    """Places of the file names that lie in `folder`; InputError when none does."""
    chosen = [i for i, name in enumerate(names) if folder in name.split("/")[:-1]]
    if not chosen:
        raise InputError(
            f"{file} has no image in {folder}, for example {names[0]}",
            f"file names, or `coco_url` without them, with {folder}, as in lvis_v1_val.json",
            "fetch the file again, or put lvis_v1_minival.json beside it",
        )
    return chosen


def holds_minival_only(images: Iterable[Mapping[str, Any]]) -> bool:
    """Whether no entry of `images` says that it lies outside val2017."""
    return all(FOLDER in str(image.get("coco_url", FOLDER)) for image in images)
