"""Tasks of Label Studio: a JSON list, boxes in percent; what is found becomes a prediction of each task."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from regionspot_cache.datasets.box_formats.box_set import UNNAMED, Answers, BoxCollector, BoxSet, LabelledBox
from regionspot_cache.errors import InputError
from regionspot_cache.files import file_sha256, replacing
from regionspot_cache.json_stream import JsonFile

RECTANGLE, VERSION = "rectanglelabels", "rs-cache"
EXPECTED = (
    "A list of tasks as Label Studio exports (as JSON, not JSON-MIN) and imports them: data with image, "
    "annotations, predictions."
)
ROTATED, UNUSABLE = "rotated box", "no box in percent"


def read(path: Path, images: Path | None) -> BoxSet:
    """The rectangles of every task's annotations, or of its predictions where it has no annotation."""
    collector = BoxCollector(path, exif="apply")
    for position, task in enumerate(_tasks(path)):
        name, results = file_name(task, path, position), list(_rectangles(task))
        sizes = [(r.get("original_width"), r.get("original_height")) for r in results]
        size = next(((w, h) for w, h in sizes if type(w) is int and type(h) is int), None)
        image = collector.image(name, size)
        for result in results:
            value = result["value"]
            sides = [value.get(key) for key in ("x", "y", "width", "height")]
            labels = value.get(RECTANGLE) or [UNNAMED]
            if not all(type(side) in (int, float) for side in sides) or not isinstance(labels, list):
                collector.skip(UNUSABLE)
            elif value.get("rotation"):
                collector.skip(ROTATED)
            else:
                x, y, w, h = (side / 100 for side in sides)
                collector.box(image, (x, y, x + w, y + h), str(labels[0]).strip(), fractions=True)
    roots = (images,) if images else (path.parent,)
    return collector.build("label-studio", file_sha256(path), roots)


def _tasks(path: Path) -> Iterator[dict[str, Any]]:
    for position, (_, task) in enumerate(JsonFile(path).entries()):
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            raise InputError(f"{path}: entry {position} is no task.", EXPECTED)
        yield task


def file_name(task: dict[str, Any], path: Path, position: int) -> str:
    """Which file a task shows: of an address its path, of Label Studio's local files what `d` says."""
    data = task["data"]
    value = data.get("image") or next((v for v in data.values() if isinstance(v, str)), None)
    if not isinstance(value, str):
        raise InputError(f"{path}: task {position} has no image.", EXPECTED)
    if "://" not in value and not value.startswith("/data/"):
        return value
    parts = urlsplit(value)
    local = parse_qs(parts.query).get("d")
    return (local[0] if local else unquote(parts.path).removeprefix("/data/upload/")).lstrip("/")


def _rectangles(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key in ("annotations", "predictions"):
        results = [result for one in _objects(task.get(key)) for result in _objects(one.get("result"))]
        found = [r for r in results if r.get("type") == RECTANGLE and isinstance(r.get("value"), dict)]
        if found:
            yield from found
            return


def _objects(values: Any) -> list[dict[str, Any]]:
    """The objects in what may be a list."""
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def write(path: Path, answers: Answers) -> None:
    """Tasks to be imported; those of a source stay as they are, with one prediction more."""
    source, before = answers.boxes, "["
    with replacing(path) as staging, staging.open("w", encoding="utf-8") as file:
        for task in _merged(answers) if source.format == "label-studio" else _made(answers):
            file.write(f"{before}\n{json.dumps(task)}")
            before = ","
        file.write("[]\n" if before == "[" else "\n]\n")


def _merged(answers: Answers) -> Iterator[dict[str, Any]]:
    entry = 0
    for i, task in enumerate(_tasks(answers.boxes.path)):
        old = list(_rectangles(task))
        pairs = [(answers.of_entry(k), result) for k, result in enumerate(old, entry)]
        entry += len(old)
        if answers.proposed:
            pairs = [(found, old[0] if old else {}) for found in answers.of_image(i)]
        results = [_result(answers, i, k, found, like) for k, (found, like) in enumerate(pairs) if found]
        others = task.get("predictions") if isinstance(task.get("predictions"), list) else []
        yield task | {"predictions": [*others, _prediction(results)]} if results else task


def _made(answers: Answers) -> Iterator[dict[str, Any]]:
    for i, name in enumerate(answers.boxes.dataset.file_names):
        results = [_result(answers, i, k, one, {}) for k, one in enumerate(answers.of_image(i)) if one.name]
        yield {"data": {"image": name}, "predictions": [_prediction(results)] if results else []}


def _prediction(results: list[dict[str, Any]]) -> dict[str, Any]:
    scores = [result["score"] for result in results if "score" in result]
    mean = {"score": round(sum(scores) / len(scores), 6)} if scores else {}
    return {"model_version": VERSION, **mean, "result": results}


def _result(answers: Answers, image: int, k: int, found: LabelledBox, like: dict[str, Any]) -> dict[str, Any]:
    """One rectangle; `like` is the one whose box it takes, where there is one."""
    dataset = answers.boxes.dataset
    width, height = int(dataset.widths[image]), int(dataset.heights[image])
    x0, y0, x1, y1 = found.box
    box = {"x": x0 / width, "y": y0 / height, "width": (x1 - x0) / width, "height": (y1 - y0) / height}
    value = {key: round(100 * share, 6) for key, share in box.items()}
    said = found.fields()
    return {
        "id": f"rs-{image}-{k}",
        "type": RECTANGLE,
        "from_name": like.get("from_name", "label"),
        "to_name": like.get("to_name", "image"),
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {**value, "rotation": 0, RECTANGLE: [found.name]},
        **({"score": said.pop("score"), "meta": said} if said else {}),
    }
