"""Boxes in the formats of other tools: read from what they are, written with all that they hold."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from regionspot_cache.datasets.box_formats import coco, label_studio, pictures, table, voc, yolo
from regionspot_cache.datasets.box_formats.box_set import UNNAMED, Answer, Answers, BoxSet, LabelledBox
from regionspot_cache.datasets.box_formats.frames import in_frame
from regionspot_cache.datasets.images import ExifRule
from regionspot_cache.errors import InputError, MissingFileError

__all__ = [
    "FORMATS",
    "UNNAMED",
    "Answer",
    "Answers",
    "BoxSet",
    "LabelledBox",
    "in_frame",
    "output_format",
    "read_boxes",
]


class Format(NamedTuple):
    """How a format is written."""

    write: Callable[[Path, Answers], None]
    suffix: str  # of its file, "" for a folder
    exif: ExifRule = "ignore"  # of the pictures that its boxes fit


FORMATS = {
    "coco": Format(coco.write, ".json"),
    "yolo": Format(yolo.write, "", "apply"),
    "voc": Format(voc.write, ""),
    "csv": Format(table.write, ".csv"),
    "label-studio": Format(label_studio.write, ".json", "apply"),
}
KNOWN = (
    "A COCO-style .json, tasks of Label Studio, a .csv file, a folder of YOLO (data.yaml), of Pascal VOC "
    "(.xml files) or of pictures."
)


def read_boxes(path: Path, images: Path | None = None) -> BoxSet:
    """The boxes of a file or folder; its format follows from what it is.

    Args:
        images: the folder that the file names start from, where it is not the usual one.

    Raises:
        MissingFileError: there is no such file or folder.
        InputError: of no known format, or not as its format has it.
    """
    if images and not images.is_dir():
        found = f"There is no image folder {images}."
        raise MissingFileError(found, "The folder that the file names start from.", "--images DIR")
    if path.is_dir():
        return _read_folder(path, images)
    if not os.path.isfile(path):  # a named pipe would block, and never raises
        raise MissingFileError(f"There is no file or folder {path}.", KNOWN)
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return yolo.read(path, images)
    if suffix == ".csv":
        return table.read(path, images)
    if suffix == ".json":
        with path.open("rb") as file:
            start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        return (label_studio if start[:1] == b"[" else coco).read(path, images)
    raise InputError(f"{path} is of no known format.", KNOWN)


def _read_folder(path: Path, images: Path | None) -> BoxSet:
    if (path / yolo.DATA).is_file():
        return yolo.read(path, images)
    if voc.files(path):
        return voc.read(path, images)
    found = pictures.read(path, images)
    if not len(found.dataset):
        raise InputError(f"{path} has neither boxes nor pictures.", KNOWN)
    return found


def output_format(out: Path, named: str | None, source: BoxSet) -> str:
    """The format to write: the named one, that of the suffix, or that of the source.

    Raises:
        InputError: none of them fits.
    """
    suffix = out.suffix.lower()
    fitting = [name for name, form in FORMATS.items() if form.suffix == suffix]
    if named:
        if FORMATS[named].suffix != suffix:
            kind = FORMATS[named].suffix or "a folder"
            raise InputError(f"--out {out} is no {named}.", f"A name of {kind}.", "--out or --format")
        return named
    if source.format in fitting:
        return source.format
    if not fitting or suffix == "":
        raise InputError(
            f"--out {out} says no format.",
            "An ending .json (COCO) or .csv, or --format " + ", ".join(FORMATS) + ".",
            "--format NAME",
        )
    return fitting[0]
