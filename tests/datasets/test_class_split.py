"""Base and novel classes of open-vocabulary detection."""

import json
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.datasets.class_split import OUTSIDE, ClassSplit, load_class_split, restrict
from regionspot_cache.datasets.coco_style import read_coco_style
from regionspot_cache.errors import InputError, UsageError

NAMES = ("cat", "dog", "fish", "bird")
FREQUENCY = ("r", "c", "f", "c")


def dataset(folder: Path) -> DetectionDataset:
    """Image 0 has a cat and a dog, 1 a fish, 2 a bird and a cat, 3 nothing."""
    boxes = [(0, 1), (0, 2), (1, 3), (2, 4), (2, 1)]
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in range(4)],
        "categories": [
            {"id": i + 1, "name": name, "frequency": letter}
            for i, (name, letter) in enumerate(zip(NAMES, FREQUENCY, strict=True))
        ],
        "annotations": [
            {
                "id": i,
                "image_id": image,
                "category_id": category,
                "bbox": [i, 0, 5, 5],
                "iscrowd": 0,
                "area": 25,
            }
            for i, (image, category) in enumerate(boxes)
        ],
    }
    file = folder / "all.json"
    file.write_text(json.dumps(content))
    return read_coco_style(file, require_images=False)


SPLIT = ClassSplit(base=("cat", "bird"), novel=("dog",))


def test_training_sees_base_classes_alone(tmp_path: Path) -> None:
    base = restrict(dataset(tmp_path), SPLIT, "base")
    assert base.class_names == ("cat", "bird")
    assert base.image_ids == [0, 2]
    assert [base.class_names[i] for i in base.labels] == ["cat", "bird", "cat"]
    assert base.dropped[OUTSIDE] == 2


def test_evaluation_sees_both_and_knows_the_novel(tmp_path: Path) -> None:
    whole = dataset(tmp_path)
    both = restrict(whole, SPLIT)
    assert both.class_names == ("cat", "dog", "bird")
    assert both.class_novel == (False, True, False)
    assert both.image_ids == [0, 2]
    assert np.array_equal(both.category_ids, [1, 2, 4])
    assert np.array_equal(both.boxes, whole.boxes[[0, 1, 3, 4]])
    assert both.dropped[OUTSIDE] == 1


def test_lvis_is_split_by_frequency(tmp_path: Path) -> None:
    found = restrict(dataset(tmp_path), load_class_split("lvis-ovd"))
    assert found.class_novel == (True, False, False, False)
    assert restrict(dataset(tmp_path), load_class_split("lvis-ovd"), "base").class_names == NAMES[1:]


def test_coco_has_48_and_17_classes() -> None:
    split = load_class_split("coco-ovd")
    assert isinstance(split.base, tuple)
    assert isinstance(split.novel, tuple)
    assert (len(set(split.base)), len(set(split.novel))) == (48, 17)
    assert not set(split.base) & set(split.novel)


def test_classes_that_are_not_there_or_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lacks 1 of the 2 classes, first 'owl'"):
        restrict(dataset(tmp_path), ClassSplit(base=("cat", "owl"), novel=("dog",)))
    with pytest.raises(InputError, match="'cat' is base and novel"):
        restrict(dataset(tmp_path), ClassSplit(base=("cat",), novel=("cat", "dog")))


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: [cat]\nnovel: [dog]\n")
    assert load_class_split(str(file)) == ClassSplit(base=("cat",), novel=("dog",))
    file.write_text("base: [cat]\nnew: [dog]\n")
    with pytest.raises(UsageError, match="novel is not given"):
        load_class_split(str(file))
    with pytest.raises(UsageError, match="coco-ovd"):
        load_class_split("coco-odv")
