"""Readers and writers of boxes in the formats of other tools, for `tests.fuzzing`."""

import json
import shutil
from pathlib import Path

from regionspot_cache.datasets.box_formats import FORMATS, read_boxes
from tests.datasets.test_box_formats import answers, coco, table, tasks, write_voc, write_yolo
from tests.fuzzing import Target


def _read(path: Path) -> None:
    """Reads boxes and writes them with answers in every format."""
    boxes = read_boxes(path)
    new = path.parent / f"{path.name}-new"
    new.mkdir(exist_ok=True)
    try:
        for form in FORMATS:
            FORMATS[form].write(new / form, answers(boxes))
    finally:
        shutil.rmtree(new)


def _voc(folder: Path) -> None:
    folder.rmdir()
    write_voc(folder, "kept")


TARGETS = [
    Target(name="boxes, coco", sample=json.dumps(coco("a")).encode(), suffix=".json", read=_read),
    Target(name="boxes, label studio", sample=json.dumps(tasks("a")).encode(), suffix=".json", read=_read),
    Target(name="boxes, csv", sample=table("a").encode(), suffix=".csv", read=_read),
    Target(name="boxes, voc", sample=_voc, files="*.xml", read=_read, share=0.5),
    Target(
        name="boxes, yolo",
        sample=lambda folder: write_yolo(folder, "a", pictures=True),
        files="*.yaml",
        read=_read,
    ),
    Target(
        name="boxes, yolo lines",
        sample=lambda folder: write_yolo(folder, "a", pictures=True),
        files="labels/*.txt",
        read=_read,
        share=0.5,
    ),
]
