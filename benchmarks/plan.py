"""Planning the extraction of a large annotation file, against `json.load` of the same file.

At full size the file is as large as that of Objects365 v2. Its Python objects would take some 20 GB, so
`json.load` gets a tenth of it there, and ten times its seconds are shown.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np

from benchmarks.harness import OURS, Findings, Row, against, in_new_process, peak_gigabytes, take_turns
from benchmarks.settings import Settings
from regionspot_cache.datasets.coco_style import read_coco_style
from regionspot_cache.store.plan import CachePlan

PEER = "json.load"
O365_IMAGES = 1_740_000
TENTH = 10
MOST_GIGABYTES = 8
CLASSES = 365
WIDTH, HEIGHT = 1024, 768
_AT_ONCE = 10_000  # images

_IMAGE = (
    '{"id": %d, "height": %d, "width": %d, '
    '"file_name": "images/v1/patch%d/objects365_v1_%08d.jpg", "license": 5}'
)
_BOX = (
    '{"id": %d, "iscrowd": 0, "isfake": 0, "isreflected": 0, "area": %.10f, '
    '"bbox": [%.10f, %.10f, %.10f, %.10f], "image_id": %d, "category_id": %d}'
)


def write_annotations(path: Path, images: int, boxes: float) -> None:
    """Writes random boxes, `boxes` for an image, with the keys and digits of Objects365."""
    with path.open("w", encoding="utf-8") as file:
        file.write('{"images": [')
        _join(file, (_IMAGE % (i, HEIGHT, WIDTH, i % 51, i) for i in range(1, images + 1)))
        file.write('], "annotations": [')
        _join(file, _annotations(images, boxes))
        classes = [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
        file.write(f'], "categories": {json.dumps(classes)}}}')


def _join(file: TextIO, entries: Iterator[str]) -> None:
    separator = ""
    for entry in entries:
        file.write(separator + entry)
        separator = ", "


def _annotations(images: int, boxes: float) -> Iterator[str]:
    rng = np.random.default_rng(0)
    for start in range(0, images, _AT_ONCE):
        stop = min(start + _AT_ONCE, images)
        first, count = int(start * boxes), int(stop * boxes) - int(start * boxes)
        sides = np.exp(rng.uniform(np.log(4), np.log(700), (count, 2)))
        corners = rng.uniform(0, 1, (count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
        owners = start + 1 + np.sort(rng.integers(0, stop - start, count))
        columns = (
            range(first + 1, first + count + 1),
            sides.prod(axis=1).tolist(),
            *corners.T.tolist(),
            *sides.T.tolist(),
            owners.tolist(),
            rng.integers(1, CLASSES + 1, count).tolist(),
        )
        yield from map(_BOX.__mod__, zip(*columns, strict=True))


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What one process reports."""

    seconds: float
    gigabytes: float


def plan(file: Path) -> Loaded:
    """From the file to the partitions, as `rs-cache extract --dry-run` does."""
    start = time.perf_counter()
    CachePlan(read_coco_style(file, require_images=False))
    return Loaded(seconds=time.perf_counter() - start, gigabytes=peak_gigabytes())


def load(file: Path) -> Loaded:
    """Only `json.load`."""
    start = time.perf_counter()
    with file.open(encoding="utf-8") as stream:
        content = json.load(stream)
    seconds = time.perf_counter() - start
    del content  # not before the clock is read
    return Loaded(seconds=seconds, gigabytes=peak_gigabytes())


def measure(settings: Settings, folder: Path) -> Findings:
    """Both in turns; at full size `json.load` on a tenth of the images."""
    work, share = settings.plan, 1
    if settings.full:
        work, share = replace(work, images=O365_IMAGES), TENTH
    files = {OURS: folder / "annotations.json", PEER: folder / "part.json"}
    write_annotations(files[OURS], work.images, work.boxes)
    write_annotations(files[PEER], work.images // share, work.boxes)
    runs: dict[str, list[Loaded]] = {name: [] for name in files}

    def contender(name: str, function: Callable[[Path], Loaded]) -> Callable[[], float]:
        def once() -> float:
            runs[name].append(in_new_process(function, files[name]))
            return runs[name][-1].seconds * (share if name == PEER else 1)

        return once

    contenders = {OURS: contender(OURS, plan), PEER: contender(PEER, load)}
    seconds = take_turns(contenders, 1 if settings.full else settings.repeats)
    size = files[OURS].stat().st_size
    what = f"plan of {work.images} images, {int(work.images * work.boxes)} boxes, {size / 1e9:.2g} GB of JSON"
    memory = Row(
        what=f"{what}, peak memory",
        unit="GB",
        ours=[run.gigabytes for run in runs[OURS]],
        lower=True,
        goal=f"<= {MOST_GIGABYTES}",
    )
    found: Findings = [*against(what, "s", seconds, lower=True, goals={PEER: ">= 0.5x"}), memory]
    if share > 1:
        found.append(f"{PEER} read one image in {share}; {share} times its seconds are shown.")
    else:
        found.append(f"The size of Objects365 v2 ({O365_IMAGES} images) is not measured here: --full.")
    return found
