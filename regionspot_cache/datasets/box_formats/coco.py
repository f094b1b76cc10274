"""COCO-style files: read with or without categories, and written with every other field as it was."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from regionspot_cache.datasets.box_formats.box_set import UNNAMED, Answers, BoxCollector, BoxSet, LabelledBox
from regionspot_cache.datasets.values import ENTRY_ERRORS, check_image_id, side, text, unusable_entry
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
    """Entries in any order: boxes wait until images and categories are known."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images: dict[Any, tuple[str, tuple[int, int]]] = {}
        self.categories: list[dict[str, Any]] = []
        self.boxes: list[tuple[Any, Any, Any, bool]] = []

    def take(self, section: str, entry: Any) -> None:
        if section == "images":
            name = entry.get("file_name") or "/".join(entry["coco_url"].split("/")[-2:])
            check_image_id(entry["id"])
            if entry["id"] in self.images:
                raise ValueError("the id repeats")
            self.images[entry["id"]] = text(name, "file name"), (side(entry, "width"), side(entry, "height"))
        elif section == "categories":
            text(entry["name"], "class name")
            self.categories.append({"id": entry["id"], "name": entry["name"].strip()})
        elif section == "annotations":
            group = bool(entry.get("iscrowd") or entry.get("ignore"))
            box = entry.get("bbox")
            self.boxes.append(
                (entry.get("image_id"), tuple(box) if box else None, entry.get("category_id"), group)
            )

    def finish(self) -> BoxCollector:
        found = BoxCollector(self.path)
        names = {category["id"]: category["name"] for category in self.categories}
        places = {key: found.image(name, size) for key, (name, size) in self.images.items()}
        for image, box, category, group in self.boxes:
            if box is None:
                found.skip(NO_BOX)
                continue
            if category is not None and category not in names:
                known = "An id of `categories`."
                raise InputError(f"{self.path}: a box has the unlisted category_id {category!r}.", known)
            corners = (*box[:2], box[0] + box[2], box[1] + box[3]) if _are_numbers(box) else box
            found.box(places.get(image, UNKNOWN), corners, names.get(category, UNNAMED), group=group)
        self.boxes.clear()
        return found


def _are_numbers(box: tuple[Any, ...]) -> bool:
    return len(box) == 4 and all(type(value) in (int, float) for value in box)


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
