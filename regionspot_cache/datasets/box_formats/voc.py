"""Folders of Pascal VOC: an XML file an image, kept with all its elements."""

import hashlib
import math
import xml.etree.ElementTree as ET
from pathlib import Path, PurePosixPath
from typing import Any

from regionspot_cache.datasets.box_formats.box_set import UNNAMED, Answers, BoxCollector, BoxSet, LabelledBox
from regionspot_cache.datasets.box_formats.folder import replacing_folder
from regionspot_cache.datasets.images import safe_file_name
from regionspot_cache.errors import InputError
from regionspot_cache.files import open_file

ANNOTATIONS, PICTURES = "Annotations", "JPEGImages"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
NO_BOX = "no box"


def files(path: Path) -> list[Path]:
    """The XML files of a folder, in its `Annotations` or in itself."""
    inside = path / ANNOTATIONS
    return sorted((inside if inside.is_dir() else path).glob("*.xml"))


def read(path: Path, images: Path | None) -> BoxSet:
    """The boxes of a folder; corners are taken as pixels as they are. InputError: a file is no such XML."""
    collector, digest = BoxCollector(path), hashlib.sha256()
    for file in files(path):
        tree, data = _parsed(file)
        digest.update(data)
        image = collector.image(_text(tree, "filename") or f"{file.stem}.jpg", _size(tree))
        for entry in tree.findall("object"):
            corners = [_number(_text(entry, f"bndbox/{key}")) for key in CORNERS]
            if all(math.isfinite(value) for value in corners):
                collector.box(image, corners, (_text(entry, "name") or UNNAMED).strip())
            else:
                collector.skip(NO_BOX)
    roots = (images,) if images else (path / PICTURES, path, path.parent / PICTURES, path.parent)
    return collector.build("voc", digest.hexdigest(), roots)


def _parsed(file: Path) -> tuple[ET.Element, bytes]:
    with open_file(file, "An XML file.") as opened:
        data = opened.read()
    try:
        tree = ET.fromstring(data, ET.XMLParser(target=ET.TreeBuilder(insert_comments=True)))
    except (ET.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{file} is not XML: {error}.", "An annotation of Pascal VOC.") from None
    if tree.tag != "annotation":
        raise InputError(f"{file} holds <{tree.tag}>.", "<annotation>, as of Pascal VOC.")
    return tree, data


def _text(element: ET.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _size(tree: ET.Element) -> tuple[int, int] | None:
    sides = [_number(_text(tree, f"size/{key}")) for key in ("width", "height")]
    return (int(sides[0]), int(sides[1])) if all(0 < side < 1 << 31 for side in sides) else None


def write(path: Path, answers: Answers) -> None:
    """`Annotations` in the folder `path`, with answers as further elements of each object."""
    source, entry = answers.boxes, 0
    originals = files(source.path) if source.format == "voc" else None
    with replacing_folder(path) as staging:
        (staging / ANNOTATIONS).mkdir()
        for i, name in enumerate(source.dataset.file_names):
            if originals is None:
                tree, target = _new(answers, i), f"{_stem(name, i)}.xml"
                if (staging / ANNOTATIONS / target).exists():
                    target = f"{name}.xml".replace("/", "__")
            else:
                tree, target = _parsed(originals[i])[0], originals[i].name
            entries = tree.findall("object")
            if originals is None or answers.proposed:
                for old in entries:
                    tree.remove(old)
                for found in answers.of_image(i):
                    tree.append(_object(found))
            else:
                for k, element in enumerate(entries, entry):
                    if found := answers.of_entry(k):
                        _say(element, found)
            entry += len(entries)
            ET.ElementTree(tree).write(staging / ANNOTATIONS / target, encoding="utf-8")


def _stem(name: str, index: int) -> str:
    """The name of the file of an image; of one that leaves its folder only the number."""
    safe = safe_file_name(name)
    return str(PurePosixPath(safe).with_suffix("")).replace("/", "__") if safe else f"image-{index}"


def _new(answers: Answers, index: int) -> ET.Element:
    dataset = answers.boxes.dataset
    tree = ET.Element("annotation")
    ET.SubElement(tree, "filename").text = dataset.file_names[index]
    size = ET.SubElement(tree, "size")
    for key, value in (("width", dataset.widths[index]), ("height", dataset.heights[index]), ("depth", 3)):
        ET.SubElement(size, key).text = str(int(value))
    return tree


def _object(found: LabelledBox) -> ET.Element:
    element = ET.Element("object")
    ET.SubElement(element, "name").text = found.name
    box = ET.SubElement(element, "bndbox")
    for key, value in zip(CORNERS, found.box, strict=True):
        ET.SubElement(box, key).text = f"{value:.10g}"
    _say(element, found)
    return element


def _say(element: ET.Element, found: LabelledBox) -> None:
    values: dict[str, Any] = {"name": found.name, **found.fields()}
    for key, value in values.items():
        child = element.find(key)
        child = ET.SubElement(element, key) if child is None else child
        child.text = None if isinstance(value, list) else str(value)
        if isinstance(value, list):
            child.clear()
            for one in value:
                ET.SubElement(child, "item").text = str(one)
