"""Readers of annotation files, class lists and class trees, for `tests.fuzzing`."""

import json
from pathlib import Path

from regionspot_cache.datasets.coco_style import read_coco_style
from tests.datasets.builders import annotation, image
from tests.fuzzing import Target

LVIS = {
    "info": {"year": 2020},
    "images": [
        image(1, coco_url="http://x/train2017/1.jpg", neg_category_ids=[2], not_exhaustive_category_ids=[]),
        image(2, coco_url="http://x/val2017/2.jpg", neg_category_ids=[], not_exhaustive_category_ids=[1]),
    ],
    "annotations": [annotation(1, 1), annotation(2, 1, 2, iscrowd=1), annotation(3, 2, 1, (0.5, 1, 9, 9))],
    "categories": [{"id": 1, "name": "a", "frequency": "r"}, {"id": 2, "name": "b", "frequency": "f"}],
}


def _read_json(path: Path) -> object:
    return read_coco_style(path, require_images=False)


TARGETS = [
    Target(name="lvis", sample=json.dumps(LVIS).encode(), suffix=".json", read=_read_json),
]
