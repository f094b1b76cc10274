"""COCO-style files: read with or without categories, and written with every other field as it was."""

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from regionspot_cache.datasets.box_formats.box_set import UNNAMED, Answers, BoxCollector, BoxSet, LabelledBox
from regionspot_cache.datasets.values import (
    ENTRY_ERRORS,
    category_id,
    check_image_id,
    side,
    text,
    unusable_entry,
)
from regionspot_cache.errors import InputError
from regionspot_cache.files import replacing
from regionspot_cache.json_stream import JsonFile

NO_BOX, UNKNOWN = "no box", -1


def read(path: Path, images: Path | None) -> BoxSet:
    """The boxes of a COCO-style file. InputError: an entry that cannot be used."""
    file = JsonFile(path)
    collector = _Collector(path)
    for section, entry in file.sections():
        try:
            collector.take(section, entry)
        except ENTRY_ERRORS as error:
            raise unusable_entry(path, section, entry, error) from None
    if "images" not in file.arrays:
        raise InputError(f"{path} lists no images.", "A COCO-style file: images, annotations, categories.")
    roots = (images,) if images else (path.parent, path.parent.parent)
    header = {"categories": collector.categories}
    return collector.finish().build("coco", file.sha256, roots, header, ids=list(collector.images))


class _Collector:
    """Entries in any order: boxes wait, in arrays, until images and categories are known."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images: dict[Any, tuple[str, tuple[int, int]]] = {}
        self.categories: list[dict[str, Any]] = []
        self._image_ids: dict[Any, int] = {}
        self._category_ids: dict[Any, int] = {}
        self._refs, self._kinds, self._boxes = array("q"), array("b"), array("d")

    def take(self, section: str, entry: Any) -> None:
        if section == "images":
            name = entry.get("file_name") or "/".join(entry["coco_url"].split("/")[-2:])
            check_image_id(entry["id"])
            if entry["id"] in self.images:
                raise ValueError("the id repeats")
            self.images[entry["id"]] = text(name, "file name"), (side(entry, "width"), side(entry, "height"))
        elif section == "categories":
            text(entry["name"], "class name")
            self.categories.append({"id": category_id(entry["id"]), "name": entry["name"].strip()})
        elif section == "annotations":
            self._annotation(entry)

    def _annotation(self, entry: Any) -> None:
        box, group = entry.get("bbox"), bool(entry.get("iscrowd") or entry.get("ignore"))
        if box and not (len(box) == 4 and all(type(value) in (int, float) for value in box)):
            raise ValueError(f"bbox {box!r} is no four numbers")
        for ids, key in ((self._image_ids, "image_id"), (self._category_ids, "category_id")):
            self._refs.append(ids.setdefault(entry.get(key), len(ids)))
        self._boxes.extend(map(float, box or (0, 0, 0, 0)))
        self._kinds.append(1 + group if box else 0)

    def finish(self) -> BoxCollector:
        found = BoxCollector(self.path)
        places = {key: found.image(name, size) for key, (name, size) in self.images.items()}
        images = [places.get(key, UNKNOWN) for key in self._image_ids]
        names = self._names()
        for row, kind in enumerate(self._kinds):
            if not kind:
                found.skip(NO_BOX)
                continue
            x, y, w, h = self._boxes[4 * row : 4 * row + 4]
            image, category = images[self._refs[2 * row]], names[self._refs[2 * row + 1]]
            found.box(image, (x, y, x + w, y + h), category, group=kind == 2)
        return found

    def _names(self) -> list[str]:
        """The names of the categories that boxes have, in the order in which they came."""
        known = {category["id"]: category["name"] for category in self.categories} | {None: UNNAMED}
        if absent := [key for key in self._category_ids if key not in known]:
            found = f"{self.path}: a box has the unlisted category_id {absent[0]!r}."
            raise InputError(found, "An id of `categories`, or none.", "Add what is missing.")
        return [known[key] for key in self._category_ids]


def write(path: Path, answers: Answers) -> None:
    """A COCO-style file of all answers, entry by entry."""
    source = answers.boxes
    same = source.format == "coco"
    known = source.header["categories"] if same else []
    names = [*dict.fromkeys(filter(None, (*source.dataset.class_names, *answers.classes)))]
    categories = {category["name"]: category["id"] for category in reversed(known)}
    following = max((c["id"] for c in known), default=0) + 1
    new = [name for name in names if name not in categories]
    categories |= {name: following + i for i, name in enumerate(new)}
    added = [{"id": categories[name], "name": name} for name in new]
    with replacing(path) as staging, staging.open("w", encoding="utf-8") as file:
        writer = _Writer(file)
        for key, kind, value in (
            _merged(answers, categories, added) if same else _made(answers, categories, added)
        ):
            writer.put(key, kind, value)
        writer.close()


Member = tuple[str, str, Any]


def _merged(answers: Answers, categories: dict[str, int], added: list[dict[str, Any]]) -> Iterator[Member]:
    """The source again, with answers in its annotations and the new categories at the end of its own."""
    file, entry, open_array = JsonFile(answers.boxes.path), 0, ""
    for key, kind, value in file.members():
        if open_array == "categories" and key != open_array:
            yield "categories", "entries", added
        open_array = key if kind != "value" else ""
        if key != "annotations" or kind == "value":
            yield key, kind, value
        elif kind == "array":
            yield key, kind, value
            if answers.proposed:
                yield from _annotations(answers, categories, answers.boxes.dataset.image_ids)
        elif not answers.proposed:
            found = [answers.of_entry(k) for k in range(entry, entry + len(value))]
            entry += len(value)
            pairs = zip(value, found, strict=True)
            yield key, kind, [old | _said(new, categories) if new else old for old, new in pairs]
    if open_array == "categories":
        yield "categories", "entries", added
    if "categories" not in file.arrays:
        yield from _array("categories", added)
    if answers.proposed and "annotations" not in file.arrays:
        yield "annotations", "array", None
        yield from _annotations(answers, categories, answers.boxes.dataset.image_ids)


def _made(answers: Answers, categories: dict[str, int], added: list[dict[str, Any]]) -> Iterator[Member]:
    """The members of a new file."""
    dataset = answers.boxes.dataset
    yield "images", "array", None
    for i, name in enumerate(dataset.file_names):
        size = {"width": int(dataset.widths[i]), "height": int(dataset.heights[i])}
        yield "images", "entries", [{"id": i + 1, "file_name": name, **size}]
    yield "annotations", "array", None
    yield from _annotations(answers, categories, range(1, len(dataset) + 1))
    yield from _array("categories", added)


def _annotations(answers: Answers, categories: dict[str, int], ids: Any) -> Iterator[Member]:
    number = 0
    for i, image_id in enumerate(ids):
        for found in answers.of_image(i):
            number += 1
            x0, y0, x1, y1 = found.box
            box = [x0, y0, round(x1 - x0, 6), round(y1 - y0, 6)]
            own = {"id": number, "image_id": image_id, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            yield "annotations", "entries", [own | _said(found, categories)]


def _array(key: str, entries: list[dict[str, Any]]) -> Iterator[Member]:
    yield key, "array", None
    yield key, "entries", entries


def _said(found: LabelledBox, categories: dict[str, int]) -> dict[str, Any]:
    return ({"category_id": categories[found.name]} if found.name else {}) | found.fields()


class _Writer:
    """Members of one object, entries of arrays a line each."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._closing, self._before = file, "", "{"

    def put(self, key: str, kind: str, value: Any) -> None:
        if kind == "entries":
            for entry in value:
                self._file.write(f"{self._entry}\n{json.dumps(entry)}")
                self._entry = ","
            return
        self._file.write(f"{self._closing}{self._before}\n{json.dumps(key)}: ")
        self._before, self._closing, self._entry = ",", "]" if kind == "array" else "", ""
        self._file.write("[" if kind == "array" else json.dumps(value))

    def close(self) -> None:
        self._file.write(f"{self._closing}{'{' if self._before == '{' else ''}\n}}\n")
