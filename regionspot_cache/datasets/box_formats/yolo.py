"""Folders of YOLO: data.yaml, images, and a text file of lines CLASS CX CY W H (fractions) beside each."""

import csv
import hashlib
import json
import math
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from regionspot_cache.datasets.box_formats.box_set import Answers, BoxCollector, BoxSet, LabelledBox
from regionspot_cache.datasets.box_formats.folder import replacing_folder
from regionspot_cache.datasets.images import resolve_image, safe_file_name
from regionspot_cache.errors import InputError, MissingFileError
from regionspot_cache.files import file_sha256, read_text
from regionspot_cache.yaml_text import NotYamlError, parse_yaml

DATA, LIST, SPLITS = "data.yaml", "train.txt", ("train", "val", "test")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
EXPECTED = "A data.yaml of YOLO: names, and train, val or test with folders of images."
LINE = "CLASS CX CY W H as fractions of the image, or CLASS and the corners of a polygon."


def read(path: Path, images: Path | None) -> BoxSet:
    """The boxes of all splits; of a polygon the box around it. InputError: not as YOLO has it."""
    file = path if path.is_file() else path / DATA
    values = _values(file)
    names, roots = _names(values, file), _roots(file, values, images)
    collector, digest = BoxCollector(file, exif="apply"), hashlib.sha256(file_sha256(file).encode())
    for name in _pictures(roots, values, file):
        image = collector.image(name, None)
        for number, line in enumerate(_lines(roots, name), 1):
            digest.update(f"{name}\0{line}\n".encode())
            if line.split():
                label, box = _parsed(line, f"{label_file(name)}, line {number}", names)
                collector.box(image, box, names[label], fractions=True)
    header = {"values": values, "names": names, "roots": roots}
    return collector.build("yolo", digest.hexdigest(), roots[:1], header)


def _values(file: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(read_text(file, EXPECTED))
    except NotYamlError as error:
        raise InputError(f"{file} is not YAML: {error}.", EXPECTED) from None
    if not isinstance(values, dict) or not set(SPLITS) & set(values):
        raise InputError(f"{file} names no images.", EXPECTED)
    return values


def _names(values: dict[str, Any], file: Path) -> dict[int, str]:
    found = values.get("names", {})
    found = dict(enumerate(found)) if isinstance(found, list) else found
    if not isinstance(found, dict) or not all(type(k) is int and k >= 0 for k in found):
        raise InputError(f"{file}: names are {found!r}.", EXPECTED)
    return {number: str(name).strip() for number, name in found.items()}


def _roots(file: Path, values: dict[str, Any], images: Path | None) -> list[Path]:
    """Where images are, then other places of label files and lists: the folder of data.yaml or its `path`."""
    inside = str(values.get("path") or ".")
    found = Path(os.path.normpath(file.parent / inside))
    if images is not None:
        return [images, file.parent]
    if found != file.parent and not found.is_relative_to(file.parent):
        wanted = "A folder below that of the file, or the image root said by you."
        raise InputError(f"{file}: path {inside} leads out of its folder.", wanted, f"--images {inside}")
    return [*dict.fromkeys((found, file.parent))]


def _find(roots: list[Path], name: str) -> Path:
    """What has this name below one of the roots; below the first where none has it."""
    paths = [resolve_image(root, name) for root in roots]
    return next((path for path in paths if path.exists()), paths[0])


def _places(values: dict[str, Any]) -> list[str]:
    """Folders and lists of images of all splits."""
    found = [values.get(split) or [] for split in SPLITS]
    each = [place for places in found for place in (places if isinstance(places, list) else [places])]
    return [str(place).removeprefix("../") for place in each]  # which Roboflow writes before them


def _pictures(roots: list[Path], values: dict[str, Any], file: Path) -> list[str]:
    found: list[str] = []
    for place in _places(values):
        path = _find(roots, place)
        if not path.exists():
            raise MissingFileError(f"{file}: there is no {path}.", EXPECTED, "--images DIR")
        if path.is_file():
            found += [line.strip().removeprefix("./") for line in read_text(path, EXPECTED).splitlines()]
        else:
            inside = [one for one in sorted(path.rglob("*")) if is_picture(one)]
            found += [f"{place.rstrip('/')}/{one.relative_to(path).as_posix()}" for one in inside]
    return [*dict.fromkeys(filter(None, found))]


def is_picture(path: Path) -> bool:
    """Whether a file's name is that of a picture."""
    return path.suffix.lower() in PICTURES and path.is_file()


def label_file(name: str) -> str:
    """Where the boxes of an image are: `labels` in the place of the last folder `images`, .txt at the end."""
    parts = list(PurePosixPath(name).with_suffix(".txt").parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return "/".join(parts)


def _lines(roots: list[Path], name: str) -> list[str]:
    try:
        path = _find(roots, label_file(name))
    except InputError:  # the image is refused too, and counted
        return []
    return read_text(path, LINE).splitlines() if path.is_file() else []


def _parsed(line: str, where: str, names: dict[int, str]) -> tuple[int, list[float]]:
    try:
        label, *values = (float(word) for word in line.split())
        good = all(map(math.isfinite, values)) and (len(values) in (4, 5) or _is_polygon(values))
        label = int(label) if label == int(label) else -1
    except (ValueError, OverflowError):
        good, label, values = False, -1, []
    if not good or label not in names:
        known = f" Classes {min(names, default=0)} to {max(names, default=0)}."
        raise InputError(f"{where}: {line[:80]!r}.", LINE + known)
    if _is_polygon(values):
        across, down = values[::2], values[1::2]
        return label, [min(across), min(down), max(across), max(down)]
    x, y, w, h = values[:4]
    return label, [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def _is_polygon(values: list[float]) -> bool:
    return len(values) >= 6 and len(values) % 2 == 0


def write(path: Path, answers: Answers) -> None:
    """data.yaml, labels, and scores.csv with what a line of YOLO has no place for."""
    source, entry = answers.boxes, 0
    same = source.format == "yolo"
    known = source.header["names"] if same else {}
    given = filter(None, (*known.values(), *source.dataset.class_names, *answers.classes))
    numbers = {name: number for number, name in reversed(known.items())}
    for name in given:
        numbers.setdefault(name, max((*numbers.values(), *known), default=-1) + 1)
    names = {**known, **{number: name for name, number in numbers.items()}}
    values = (source.header["values"] if same else {"train": LIST}) | {"names": dict(sorted(names.items()))}
    if "nc" in values:
        values["nc"] = len(names)
    with replacing_folder(path) as staging, (staging / "scores.csv").open("w", newline="") as file:
        (staging / DATA).write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), "utf-8")
        _write_lists(staging, answers)
        scores = csv.writer(file, lineterminator="\n")
        scores.writerow(["image", "line", "name", "score", "margin", "names", "scores", "was"])
        for i, name in enumerate(source.dataset.file_names):
            if safe_file_name(name) is None:  # counted as an image that cannot be read
                continue
            lines = _lines(source.header["roots"], name) if same else []
            new, said = _new_lines(answers, i, numbers), list[LabelledBox | None]()
            if same and not answers.proposed:
                new = list[str]()
                for line in lines:
                    found = answers.of_entry(entry) if line.split() else None
                    entry += bool(line.split())
                    said.append(found)
                    new.append(" ".join([str(numbers[found.name]), *line.split()[1:]]) if found else line)
            else:
                said += [one for one in answers.of_image(i) if one.name]
            target = staging / label_file(name)
            if target.exists():
                found = f"{name} and another image have the same label file {label_file(name)}."
                raise InputError(found, "Images whose names differ without their endings.", "--format coco")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("".join(f"{line}\n" for line in new), "utf-8")
            for k, found in enumerate(said, 1):
                if found and found.answer:
                    row = {
                        key: json.dumps(v) if isinstance(v, list) else v for key, v in found.fields().items()
                    }
                    scores.writerow([name, k, found.name, *row.values()])


def _write_lists(staging: Path, answers: Answers) -> None:
    """The lists of images: those of the source, or one of all."""
    source = answers.boxes
    if source.format != "yolo":
        (staging / LIST).write_text("".join(f"./{name}\n" for name in source.dataset.file_names), "utf-8")
        return
    for place in _places(source.header["values"]):
        if (path := _find(source.header["roots"], place)).is_file():
            (staging / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, staging / place)


def _new_lines(answers: Answers, index: int, numbers: dict[str, int]) -> list[str]:
    """The boxes of an image that have a name, as fractions of its sides."""
    dataset, lines = answers.boxes.dataset, []
    width, height = float(dataset.widths[index]), float(dataset.heights[index])
    for found in answers.of_image(index):
        if found.name:
            x0, y0, x1, y1 = found.box
            sides = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
            lines.append(" ".join([str(numbers[found.name]), *(f"{side:.9g}" for side in sides)]))
    return lines
