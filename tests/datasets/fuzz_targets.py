"""Readers of annotation files, class lists and class trees, for `tests.fuzzing`."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from regionspot_cache.datasets.augmentation import Augmentation
from regionspot_cache.datasets.coco_style import read_coco_style
from regionspot_cache.datasets.hierarchy import hierarchy_ignore
from regionspot_cache.datasets.images import ImageFailure, find_image, read_image
from regionspot_cache.datasets.minival import FOLDER
from regionspot_cache.datasets.openimages import read_classes, read_openimages
from regionspot_cache.datasets.records import DetectionDataset, to_coco_dict
from regionspot_cache.datasets.shapes import World, is_complete, materialise, materialise_space
from regionspot_cache.datasets.views import with_views
from tests.datasets.builders import (
    O365_V2,
    annotation,
    coco_json,
    image,
    image_file,
    openimages_row,
    write_csv,
)
from tests.datasets.test_hierarchy import MIDS, NAMES, TREE
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
V3DET_TREE = {
    "father2child": {"1": ["2", "3"], "2": ["4"]},
    "id2name": {"1": "Person", "2": "Man", "3": "Woman", "4": "Tree"},
}


def _used(dataset: DetectionDataset) -> str:
    """What a plan, an extraction and an evaluation make of a dataset."""
    views = with_views(dataset, Augmentation(flip=True, crops=1))
    for record in dataset:
        try:
            read_image(find_image(dataset.image_root, record.file_name))
        except ImageFailure as failure:
            str(failure).encode()
    for names in (dataset.class_names, map(str, dataset.image_ids), dataset.file_names):
        "\n".join(names).encode("utf-8")
    return json.dumps([len(views), to_coco_dict(dataset)])


def _read_json(path: Path, **options: Any) -> str:
    return _used(read_coco_style(path, require_images=False, **options))


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()


def _objects365(folder: Path) -> None:
    entry = image(420917, "images/v1/patch8/objects365_v1_00420917.jpg")
    image_file(folder / "patch8" / "objects365_v1_00420917.jpg")
    coco_json(folder / "x.json", [entry, image(2, "b.jpg")], [annotation(1, 420917, 4)], O365_V2)


def _v3det(folder: Path) -> None:
    categories = [{"id": n, "name": "bat", "cat_info": "a", "novel": n == 2} for n in (1, 2)]
    image_file(folder / "images" / "n07" / "21.jpg")
    images = [image("a", "images/n07/21.jpg"), image("b", "images/n07/gone.jpg")]
    coco_json(folder / "v3det_train.json", images, [annotation(1, "a", 2), annotation(2, "b")], categories)


def _read_with_images(folder: Path, name: str, **options: Any) -> str:
    return _used(read_coco_style(folder / name, **options))


def _openimages(folder: Path) -> None:
    rows = [openimages_row(i, m, (0.1, 0.2, 0.7, 0.8)) for i in ("a0", "b1") for m in ("/m/0", "/m/1")]
    write_csv(folder / "boxes.csv", rows)
    (folder / "classes.csv").write_text('/m/0,Cat\n/m/1,"Dog, big"\n')
    write_csv(folder / "sizes.csv", [{"ImageID": i, "Width": 40, "Height": 30} for i in ("a0", "b1")],
              ["ImageID", "Width", "Height"])  # fmt: skip
    image_file(folder / "train" / "a0.jpg")


def _read_openimages(folder: Path, sizes: bool) -> str:
    sizes_csv = folder / "sizes.csv" if sizes else None
    options = {"split": "train", "roots": [folder], "sizes_csv": sizes_csv, "require_images": False}
    return _used(read_openimages(folder / "boxes.csv", folder / "classes.csv", **options))


def _openimages_tree(folder: Path) -> None:
    rows = "".join(f"{mid},{name}\n" for name, mid in MIDS.items())
    (folder / "class-descriptions-boxable.csv").write_text(rows)
    (folder / "tree.json").write_text(json.dumps(TREE))


def _world(folder: Path) -> None:
    materialise(folder, train=3, val=1, processes=1)


def _read_world(folder: Path) -> None:
    for space in ("s", "m"):
        (folder / f"train-{space}.json").unlink(missing_ok=True)
    is_complete(folder, World(train=3, val=1))
    _used(read_coco_style(materialise_space(folder, "s"), roots=(folder / "images",)))


def _tree(file: Path) -> object:
    return hierarchy_ignore(file, NAMES[:3])


_OPENIMAGES: Callable[..., Target] = partial(Target, sample=_openimages)
TARGETS = [
    Target(name="lvis", sample=_json(LVIS), suffix=".json", read=_read_json),
    Target(
        name="lvis minival",
        sample=_json(LVIS),
        suffix=".json",
        read=partial(_read_json, folder=FOLDER),
        share=0.5,
    ),
    Target(
        name="objects365",
        sample=_objects365,
        files="*.json",
        read=partial(_read_with_images, name="x.json", o365="o365"),
        share=0.5,
    ),
    Target(
        name="v3det",
        sample=_v3det,
        files="*.json",
        read=partial(_read_with_images, name="v3det_train.json"),
        share=0.5,
    ),
    _OPENIMAGES(name="openimages boxes", files="boxes.csv", read=partial(_read_openimages, sizes=False)),
    _OPENIMAGES(
        name="openimages sizes", files="sizes.csv", read=partial(_read_openimages, sizes=True), share=0.5
    ),
    _OPENIMAGES(
        name="openimages files", files="**/*", read=partial(_read_openimages, sizes=False), share=0.5
    ),
    Target(
        name="openimages classes", sample=b"/m/0,Cat\n/m/1,Dog\n", suffix=".csv", read=read_classes, share=0.5
    ),
    Target(name="openimages tree", sample=_openimages_tree, read=lambda folder: _tree(folder / "tree.json")),
    Target(name="v3det tree", sample=_json(V3DET_TREE), suffix=".json", read=_tree),
    Target(name="shapes", sample=_world, files="[!.]*", read=_read_world, share=0.1),
]
