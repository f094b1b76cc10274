"""COCO-style files from which no dataset can be made, and ids, sizes and names at the limits."""

import json
from pathlib import Path

import pytest

from regionspot_cache.datasets.coco_style import read_coco_style
from regionspot_cache.errors import InputError, MissingFileError
from tests.datasets.builders import annotation, classes, coco_json, image, image_file


def without(entry: dict, key: str) -> dict:
    return {name: value for name, value in entry.items() if name != key}


@pytest.mark.parametrize(
    ("images", "annotations", "categories", "message"),
    [
        ([image(1, "a.jpg")], [annotation(8, 1, 5)], classes("x"), "Annotation 8 .* class id 5"),
        ([image(1, "a.jpg")], [without(annotation(8, 1), "bbox")], classes("x"), "id 8 lacks 'bbox'"),
        ([image(1, "a.jpg")], [without(annotation(8, 1), "id")], classes("x"), "lacks 'id'"),
        ([image(1, "a.jpg")], [annotation(8, 1, bbox=(1, 2, 3))], classes("x"), "id 8 cannot be used"),
        ([image(1, "a.jpg")], [annotation(8, 1, bbox=(1, 2, None, 4))], classes("x"), "id 8 cannot be used"),
        ([image(1, "a.jpg")], [annotation(8, 1, "1")], classes("x"), "id 8 cannot be used"),
        ([image(1, "a.jpg")], [3], classes("x"), "annotations.* 3 cannot be used"),
        ([image(1)], [], classes("x"), "id 1 lacks 'file_name'"),
        ([without(image(1, "a.jpg"), "width")], [], classes("x"), "id 1 lacks 'width'"),
        ([image(1, "a.jpg"), image(1, "b.jpg")], [], classes("x"), "image id 1 more than once"),
        ([image(1, "a.jpg")], [], classes("x") + classes("y"), "class id 1 more than once"),
        ([image(1, "a.jpg")], [], [{"id": 1}], "id 1 lacks 'name'"),
        ([image(1, "a.jpg")], [annotation(1, "one")], classes("x"), "Not one of the 1 annotations"),
        ([image(1, "a.jpg")], [annotation(1, "1")], classes("x"), "id 1 as a number and as the text '1'"),
        ([image("-7", "a.jpg"), image(-7, "b.jpg")], [], classes("x"), "id -7 as a number and as the text"),
        ([image("a", "a.jpg"), image("a", "b.jpg")], [], classes("x"), "image id a more than once"),
        ([image(2**63, "a.jpg")], [], classes("x"), "image id 9223372036854775808 is neither"),
        ([image("\ud800", "a.jpg")], [], classes("x"), "surrogates not allowed"),
        ([image(True, "a.jpg")], [], classes("x"), "image id True is neither"),
        ([image(1, 7)], [], classes("x"), "file_name 7 is no text"),
        ([image(1, "a.jpg", width=40.5)], [], classes("x"), "width 40.5 is no whole number"),
        ([image(1, "a.jpg", width="40")], [], classes("x"), "width '40' is no whole number"),
        ([image(1, "a.jpg", height=2**40)], [], classes("x"), "id 1 cannot be used"),
        ([image(1, "a.jpg")], [annotation(2**63, 1)], classes("x"), "id 9223372036854775808 cannot be used"),
        (
            [image(1, "a.jpg")],
            [annotation(8, 1), annotation(8, 1, bbox=(1, 1, 3, 3))],
            classes("x"),
            "annotation id 8",
        ),
        ([image(1, "a.jpg")], [annotation(8, 1, iscrowd="0")], classes("x"), "'0', neither 0 nor 1"),
        ([image(1, "a.jpg")], [], [{"id": 2**63, "name": "x"}], "class id 9223372036854775808 is no integer"),
        ([image(1, "a.jpg")], [], [{"id": 1.5, "name": "x"}], "class id 1.5 is no integer"),
        ([image(1, "a.jpg")], [], [{"id": 1, "name": None}], "name None is no text"),
        ([image(1, "a.jpg")], [], ["x"], "categories` with 'x' cannot be used: it is no object"),
        ([image(1, "/etc/passwd")], [], classes("x"), "no usable image; 1 x image: file name leaves"),
        ([], [], classes("x"), "no usable image"),
    ],
)
def test_unusable_files_are_refused_by_name(
    tmp_path: Path, images: list, annotations: list, categories: list, message: str
) -> None:
    file = coco_json(tmp_path / "x.json", images, annotations, categories)
    with pytest.raises(InputError, match=message) as caught:
        read_coco_style(file, require_images=False)
    assert "x.json" in caught.value.found
    assert caught.value.expected
    assert caught.value.remedy


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"images": [], "type": "captions"}))
    with pytest.raises(InputError, match=r"no `annotations`; it has images, type"):
        read_coco_style(tmp_path / "x.json")


def test_a_section_that_is_no_list_is_not_read_as_an_empty_one(tmp_path: Path) -> None:
    content = {
        "images": [image(1, "a.jpg")],
        "annotations": {"1": annotation(1, 1)},
        "categories": classes("x"),
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"no list `annotations`; it has images, annotations, categories"):
        read_coco_style(tmp_path / "x.json", require_images=False)


def test_sizes_and_ids_at_the_limits(tmp_path: Path) -> None:
    images = [
        image(2**63 - 1, "a.jpg", width=40.0),
        image("9223372036854775808", "b.jpg"),
        image("01", "c.jpg"),
    ]
    boxes = [annotation(-(2**63), 2**63 - 1, 2**63 - 1), annotation(3, "01", -5)]
    categories = [{"id": 2**63 - 1, "name": "x"}, {"id": -5, "name": "y", "frequency": 12}]
    dataset = read_coco_style(coco_json(tmp_path / "x.json", images, boxes, categories), require_images=False)
    assert dataset.image_ids == [2**63 - 1, "9223372036854775808", "01"]
    assert dataset.category_ids.tolist() == [-5, 2**63 - 1]
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.annotation_ids.tolist() == [-(2**63), 3]
    assert dataset.class_frequency == ("", "")


def test_names_that_no_file_system_holds_are_missing_images(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    names = ["a.jpg", "x" * 5000 + ".jpg", "y/" * 5000 + "b.jpg", "c\x1b[31m\n.jpg"]
    file = coco_json(tmp_path / "x.json", [image(n, name) for n, name in enumerate(names)], [])
    dataset = read_coco_style(file)
    assert dataset.file_names == names
    with pytest.raises(MissingFileError, match="None of the images is there"):
        read_coco_style(coco_json(tmp_path / "x.json", [image(1, names[1])], []))
