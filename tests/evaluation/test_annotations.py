"""Annotation files as evaluation reads them: what is refused, and what is left as it is."""

import json
from array import array
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regionspot_cache.errors import InputError
from regionspot_cache.evaluation import evaluate
from regionspot_cache.evaluation.ground_truth import ground_truth
from tests.evaluation.synthetic import perfect_detections

HUGE = 10**30


def content(**changes: Any) -> dict[str, Any]:
    """A small annotation file; `annotations__bbox=...` changes that field of the last annotation."""
    made: dict[str, Any] = {
        "images": [{"id": 4, "width": 40, "height": 30}, {"id": 5, "width": 40.0, "height": 30}],
        "annotations": [
            {"image_id": 4, "category_id": 2, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 4, 2, 4, 6]]},
            {"image_id": 5, "category_id": 1, "bbox": [1, 2, 3.5, 4], "area": 9, "iscrowd": None},
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b", "frequency": None}],
    }
    for path, value in changes.items():
        section, field = path.split("__")
        made[section][-1][field] = value
    return made


def write(folder: Path, what: Any) -> Path:
    file = folder / "gt.json"
    file.write_text(json.dumps(what))
    return file


@pytest.mark.parametrize("federated", [True, False])
def test_a_file_and_its_dictionary_are_the_same(federated: bool, tmp_path: Path) -> None:
    made = content()
    for image in made["images"] if federated else ():
        image |= {"neg_category_ids": [1], "not_exhaustive_category_ids": []}
    before = deepcopy(made)
    truth, from_memory = ground_truth(write(tmp_path, made)), ground_truth(made)
    assert made == before
    for name, column in vars(truth).items():
        np.testing.assert_equal(vars(from_memory)[name], column, name)
    assert truth.areas.tolist() == [12, 9]
    assert truth.federated is federated
    assert truth.segmentations == [[array("d", [1, 2, 4, 2, 4, 6])], None]
    assert ground_truth(truth) is truth


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"images__id": 4}, "`images` with id 4 .* more than once"),
        ({"images__id": "4"}, "id 4 as a number and as the text '4'"),
        ({"images__id": 2**63}, "`images` with .* 64 bits"),
        ({"images__id": True}, "neither an integer"),
        ({"images__id": 1.5}, "neither an integer"),
        ({"images__id": "\ud800"}, "`images` with"),
        ({"images__height": None}, "height None is no whole"),
        ({"images__height": "30"}, "height '30' is no whole"),
        ({"images__width": HUGE}, "width 1000"),
        ({"images__width": float("nan")}, "width nan"),
        ({"images__neg_category_ids": 3}, "neg_category_ids is no list"),
        ({"images__not_exhaustive_category_ids": ["1"]}, "not_exhaustive_category_ids is no list"),
        ({"annotations__image_id": [4]}, "neither an integer"),
        ({"annotations__category_id": "2"}, "`annotations` with .*class id '2' is no integer"),
        ({"annotations__category_id": HUGE}, "class id .* of 64 bits"),
        ({"annotations__bbox": None}, "`annotations` with"),
        ({"annotations__bbox": [1, 2, 3]}, "`annotations` with"),
        ({"annotations__bbox": "1234"}, "`annotations` with"),
        ({"annotations__bbox": [1, 2, 3, [4]]}, "`annotations` with"),
        ({"annotations__bbox": [1, 2, 3, float("nan")]}, "not four pixel coordinates"),
        ({"annotations__bbox": [1, 2, float("-inf"), 4]}, "not four pixel coordinates"),
        ({"annotations__bbox": [1, 2, 3, 10**400]}, "not four pixel coordinates"),
        ({"annotations__area": "9"}, "`annotations` with"),
        ({"annotations__area": float("inf")}, "area inf"),
        ({"annotations__iscrowd": "0"}, "iscrowd '0' is neither 0 nor 1"),
        ({"annotations__ignore": [1]}, "ignore"),
        ({"annotations__segmentation": 5}, "`annotations` with"),
        ({"annotations__segmentation": [[1, 2, "3", 4, 5, 6]]}, "`annotations` with"),
        ({"annotations__segmentation": ["abcdef"]}, "`annotations` with"),
        ({"annotations__segmentation": [[1, 2, 10**400, 4, 5, 6]]}, "`annotations` with"),
        ({"annotations__segmentation": {"size": [3], "counts": ""}}, "a mask of size"),
        ({"annotations__segmentation": {"size": [30, 40], "counts": [1, None]}}, "run lengths"),
        ({"annotations__segmentation": {"size": [30, 40]}}, "lacks 'counts'"),
        ({"categories__id": "2"}, "`categories` with"),
        ({"categories__id": 2**63}, "id 9223372036854775808"),
        ({"categories__id": 1}, "`categories` with id 1 .* more than once"),
        ({"categories__frequency": 1}, "frequency 1"),
    ],
)
def test_wrong_types_are_refused_where_the_file_is_read(
    changes: dict[str, Any], found: str, tmp_path: Path
) -> None:
    file = write(tmp_path, content(**changes))
    with pytest.raises(InputError, match=found) as caught:
        ground_truth(file)
    assert caught.value.remedy
    assert str(file) in caught.value.found


@pytest.mark.parametrize("entry", [None, 5, "text", [1], []])
@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_entries_that_are_no_objects(section: str, entry: Any) -> None:
    made = content()
    made[section].append(entry)
    with pytest.raises(InputError, match=f"of `{section}`"):
        ground_truth(made)


@pytest.mark.parametrize("field", ["image_id", "category_id", "bbox"])
def test_missing_fields_are_named(field: str) -> None:
    made = content()
    del made["annotations"][1][field]
    with pytest.raises(InputError, match=f"`annotations` with .* lacks '{field}'"):
        ground_truth(made)


@pytest.mark.parametrize("made", [{}, {"images": [], "annotations": []}, {**content(), "images": 5}])
def test_what_is_no_annotation_file(made: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no COCO-style dictionary"):
        ground_truth(made)


def test_an_annotation_of_an_image_that_is_not_listed() -> None:
    with pytest.raises(InputError, match=r"1 annotations .* lacks, for example 6"):
        ground_truth(content(annotations__image_id=6))


def test_restricted_to_images_of_either_spelling() -> None:
    part = ground_truth(content(), ["5"])
    assert part.image_ids == (5,)
    assert part.areas.tolist() == [9]
    with pytest.raises(InputError, match="id 5 as a number and as the text '5'"):
        ground_truth(content(), [5, "5"])


@pytest.mark.parametrize("category", [2**31 + 5, 2**62, -(2**63)])
@pytest.mark.parametrize("fast", [True, False])
def test_category_ids_of_64_bits(category: int, fast: bool) -> None:
    made = content(annotations__category_id=category, categories__id=category)
    made["annotations"][0]["category_id"] = category
    for annotation in made["annotations"]:
        annotation["iscrowd"] = 0
        annotation.setdefault("segmentation", [[1, 2, 4, 2, 4, 6]])
    found = perfect_detections(made)
    assert found.category_ids.tolist() == [category] * 2
    for result in evaluate(found, made, fast=fast).values():
        assert result.metrics["AP"] == pytest.approx(1)
        assert result.category_ids.tolist() == sorted([1, category])


def test_images_of_both_kinds_of_ids_stand_together() -> None:
    made = content(images__id="five", annotations__image_id="five")
    truth = ground_truth(made)
    assert truth.image_ids == (4, "five")
    np.testing.assert_array_equal(truth.images, [0, 1])


@pytest.mark.parametrize("federated", [True, False])
def test_the_reference_takes_ids_of_both_kinds(federated: bool) -> None:
    """pycocotools and lvis sort ids; ours are numbered for them in our own order."""
    made = content(images__id="five", annotations__image_id="five")
    made["annotations"][1] |= {"segmentation": [[1, 2, 4, 2, 4, 6]], "iscrowd": 0}
    for image in made["images"] if federated else ():
        image["neg_category_ids"] = [1, 2]
    found = perfect_detections(made)
    fast, slow = (evaluate(found, made, fast=fast) for fast in (True, False))
    for kind, result in fast.items():
        assert result.metrics == pytest.approx(slow[kind].metrics)
        assert result.metrics["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    "mask",
    [
        None,
        [],
        [[1, 2]],
        [[1e9, 1e9, 0, 0, 5, 5]],
        {"size": [30, 40], "counts": "~~~~"},
        {"size": [30, 40], "counts": [5, 2**31]},
        {"size": [40, 30], "counts": [1200]},
        {"size": [-30, -40], "counts": "P1"},
    ],
)
@pytest.mark.parametrize("federated", [True, False])
@pytest.mark.parametrize("fast", [True, False])
def test_masks_that_pycocotools_would_crash_on(mask: Any, federated: bool, fast: bool) -> None:
    made = content(annotations__segmentation=[[1, 2, 4, 2, 4, 6]])
    for image in made["images"] if federated else ():
        image["neg_category_ids"] = [1, 2]
    found = perfect_detections(made)
    made["annotations"][1]["segmentation"] = mask
    with pytest.raises(InputError, match="without a usable mask"):
        evaluate(found, made, fast=fast)


def test_masks_of_images_that_are_too_large() -> None:
    made = content(annotations__segmentation=[[1, 2, 4, 2, 4, 6]])
    found = perfect_detections(made)
    made["images"][1] |= {"width": 2**31 - 1, "height": 2**31 - 1}
    with pytest.raises(InputError, match="without a usable mask"):
        evaluate(found, made)
