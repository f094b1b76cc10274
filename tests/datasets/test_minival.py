"""LVIS minival: from its own file, by GLIP's name, or taken from val."""

import json
from pathlib import Path

import pytest

from regionspot_cache.datasets import load_dataset
from regionspot_cache.datasets.minival import holds_minival_only
from regionspot_cache.errors import InputError, MissingFileError
from tests.datasets.builders import annotation, coco_json, image, image_file

URL = "http://images.cocodataset.org/{}/{:012}.jpg"


def lvis_image(number: int, folder: str, **fields: object) -> dict:
    return image(number, coco_url=URL.format(folder, number), neg_category_ids=[], **fields)


IMAGES = [lvis_image(n, folder) for n, folder in enumerate(["train2017", "val2017", "train2017", "val2017"])]
ANNOTATIONS = [annotation(n, n % 4, bbox=(n, 2, 9, 9)) for n in range(1, 8)]


def val(root: Path) -> Path:
    return coco_json(root / "lvis/lvis_v1_val.json", IMAGES, ANNOTATIONS)


def test_taken_from_val(tmp_path: Path) -> None:
    val(tmp_path)
    found = load_dataset("lvis:minival", data_root=tmp_path, require_images=False)
    assert (found.name, found.split) == ("lvis", "minival")
    assert found.image_ids == [1, 3]
    assert found.file_names == [f"val2017/{n:012}.jpg" for n in (1, 3)]
    assert found.annotation_ids.tolist() == [1, 5, 3, 7]
    assert found.annotation_files == (tmp_path / "lvis/lvis_v1_val.json",)
    whole = load_dataset("lvis:val", data_root=tmp_path, require_images=False)
    assert (whole.split, len(whole)) == ("val", 4)


@pytest.mark.parametrize("flat", [True, False])
def test_images_wherever_they_lie(tmp_path: Path, flat: bool) -> None:
    """A flat folder hides which images are of val2017; the annotation file tells."""
    val(tmp_path)
    folder = tmp_path / ("flat" if flat else "coco/val2017")
    for number in (0, 1, 3):
        image_file(folder / f"{number:012}.jpg")
    images = {"images": folder} if flat else {}
    found = load_dataset("lvis:minival", data_root=tmp_path, **images)
    assert found.image_ids == [1, 3]
    assert all((found.image_root / name).is_file() for name in found.file_names)


@pytest.mark.parametrize(
    "place",
    [
        "lvis/lvis_v1_minival.json",
        "lvis/lvis_v1_minival_inserted_image_name.json",
        "coco/annotations/lvis_v1_minival_inserted_image_name.json",
    ],
)
def test_its_own_file_comes_before_val(tmp_path: Path, place: str) -> None:
    val(tmp_path)
    image_file(tmp_path / "coco/val2017/000000000003.jpg")
    own = [lvis_image(3, "val2017", file_name="000000000003.jpg")]
    coco_json(tmp_path / place, own, ANNOTATIONS[2:3])
    found = load_dataset("lvis:minival", data_root=tmp_path)
    assert (found.split, found.image_ids, found.annotation_files) == ("minival", [3], (tmp_path / place,))
    assert (found.image_root / found.file_names[0]).is_file()
    as_file = load_dataset(str(tmp_path / place), data_root=tmp_path, require_images=False)
    assert as_file.split == "minival"


def test_val_without_folders_is_refused(tmp_path: Path) -> None:
    images = [image(n, f"{n}.jpg", neg_category_ids=[]) for n in range(4)]
    coco_json(tmp_path / "lvis/lvis_v1_val.json", images, ANNOTATIONS)
    with pytest.raises(InputError, match="no image in val2017"):
        load_dataset("lvis:minival", data_root=tmp_path, require_images=False)
    with pytest.raises(MissingFileError, match="minival"):
        load_dataset("lvis:minival", data_root=tmp_path / "nothing")


def test_whether_a_file_holds_more_than_minival(tmp_path: Path) -> None:
    assert not holds_minival_only(json.loads(val(tmp_path).read_text())["images"])
    assert holds_minival_only(IMAGES[1::2])
    assert holds_minival_only([{"id": 1, "file_name": "1.jpg"}])
