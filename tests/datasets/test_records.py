"""The dataset record: samples, selections and the COCO ground truth made from it."""

import contextlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO

from regionspot_cache.datasets.coco_style import read_coco_style
from regionspot_cache.datasets.records import DetectionDataset, to_coco_dict
from regionspot_cache.datasets.regions import BoxPolicy
from tests.datasets.builders import annotation, coco_json, image


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    """Image i has i % 4 boxes; one box of image 7 stands for a group."""
    images = [image(100 + i, f"{i}.jpg") for i in range(20)]
    owners = [i for i in range(20) for _ in range(i % 4)]
    boxes = [
        annotation(n, 100 + i, 5, bbox=(n % 9 + n / 100, 2, 8.5, 9), iscrowd=int(n == owners.index(7)))
        for n, i in enumerate(owners)
    ]
    categories = [{"id": 5, "name": "a", "frequency": "r"}, {"id": 2, "name": "b", "frequency": "f"}]
    file = coco_json(tmp_path_factory.mktemp("records") / "x.json", images, boxes, categories)
    return read_coco_style(file, policy=BoxPolicy(drop_crowd=False), require_images=False)


@given(st.integers(0, 25), st.integers(0, 3))
def test_a_sample_is_a_function_of_its_seed_and_keeps_each_image_whole(
    dataset: DetectionDataset, limit: int, seed: int
) -> None:
    sample = dataset.sample(limit, seed)
    assert sample.image_ids == dataset.sample(limit, seed).image_ids
    assert len(sample) == min(limit, 20)
    positions = [dataset.image_ids.index(number) for number in sample.image_ids]
    assert positions == sorted(set(positions))
    for record, position in zip(sample, positions, strict=True):
        whole = dataset[position]
        assert record.file_name == whole.file_name
        np.testing.assert_array_equal(record.boxes, whole.boxes)
        np.testing.assert_array_equal(record.annotation_ids, whole.annotation_ids)
    assert sample.num_boxes == sample.offsets[-1] == sum(len(record.boxes) for record in sample)


def test_seeds_give_other_samples_and_no_limit_gives_all(dataset: DetectionDataset) -> None:
    assert len({tuple(dataset.sample(5, seed).image_ids) for seed in range(5)}) > 1
    assert dataset.sample(None, 3) is dataset
    sample = dataset.sample(5, 2)
    assert (sample.limit, sample.seed, dataset.limit) == (5, 2, None)
    assert sample.class_names == dataset.class_names


def test_positions_count_from_either_end_and_no_further(dataset: DetectionDataset) -> None:
    assert dataset[-1].image_id == dataset[19].image_id == 119
    for position in (20, -21):
        with pytest.raises(IndexError):
            dataset[position]


def test_datasets_travel_between_processes(dataset: DetectionDataset) -> None:
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - own bytes
    np.testing.assert_array_equal(copy.boxes, dataset.boxes)
    assert copy.policy == dataset.policy


def test_pycocotools_reads_the_ground_truth_back(dataset: DetectionDataset, tmp_path: Path) -> None:
    content = to_coco_dict(dataset)
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    assert len(coco.getAnnIds()) == dataset.num_boxes
    assert [entry["iscrowd"] for entry in content["annotations"]].count(1) == 1
    assert {entry["id"]: entry.get("frequency") for entry in content["categories"]} == {5: "r", 2: "f"}
    again = read_coco_style(
        coco_json(tmp_path / "again.json", content["images"], content["annotations"], content["categories"]),
        policy=dataset.policy,
        require_images=False,
    )
    for name in ("offsets", "labels", "annotation_ids", "crowd", "widths", "category_ids"):
        np.testing.assert_array_equal(getattr(again, name), getattr(dataset, name))
    np.testing.assert_allclose(again.boxes, dataset.boxes, atol=1e-5)
