"""Where annotations came from is enough to read them again, from any folder and as they are then."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.datasets import DetectionDataset, load_dataset, load_source
from regionspot_cache.datasets.regions import BoxPolicy
from regionspot_cache.datasets.source import DatasetSource
from regionspot_cache.errors import MissingFileError
from tests.datasets.builders import annotation, coco_json, image, image_file

CLASSES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with an annotation file and its pictures."""
    monkeypatch.chdir(tmp_path)
    for i in range(1, 6):
        image_file(Path(f"photos/{i}.jpg"))
    write(annotation(i, i, 1 + i % 2, (1, 1, 4, 3)) for i in range(1, 6))
    return tmp_path


def write(annotations) -> None:
    coco_json(Path("my.json"), [image(i, f"{i}.jpg") for i in range(1, 6)], [*annotations], CLASSES)


def load(**options) -> DetectionDataset:
    return load_dataset("my.json", data_root=Path("data"), images=Path("photos"), **options)


def same(ours: DetectionDataset, theirs: DetectionDataset) -> bool:
    columns = ("widths", "heights", "offsets", "boxes", "labels", "annotation_ids")
    return ours.file_names == theirs.file_names and all(
        np.array_equal(getattr(ours, name), getattr(theirs, name)) for name in columns
    )


@pytest.mark.parametrize(
    "options", [{}, {"limit": 3, "seed": 5}, {"policy": BoxPolicy(min_size=2, drop_crowd=False)}]
)
def test_a_file_is_read_again_from_another_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch, options: dict
) -> None:
    dataset = load(**options)
    assert dataset.source is not None
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    again = load_source(dataset.source)
    assert same(again, dataset)
    assert again.source == dataset.source
    assert again.image_root.resolve() == place / "photos"


def test_the_arguments_are_kept(place: Path) -> None:
    source = load(limit=3, seed=5, policy=BoxPolicy(min_size=2)).source
    assert source == DatasetSource(
        dataset=str(place / "my.json"),
        data_root=str(place / "data"),
        images=str(place / "photos"),
        limit=3,
        seed=5,
        policy=BoxPolicy(min_size=2.0),
    )
    assert asdict(source)["policy"]["min_size"].hex() == (2.0).hex()


def test_labels_are_those_of_the_file_as_it_is_now(place: Path) -> None:
    dataset = load()
    write(annotation(i, i, 1, (1, 1, 4, 3)) for i in range(1, 6))
    again = load_source(dataset.source)
    assert set(dataset.labels.tolist()) == {0, 1}
    assert set(again.labels.tolist()) == {0}
    np.testing.assert_array_equal(again.boxes, dataset.boxes)


def test_a_file_that_is_gone(place: Path) -> None:
    source = load().source
    (place / "my.json").unlink()
    with pytest.raises(MissingFileError):
        load_source(source)


@pytest.mark.parametrize(("name", "split"), [("shapes", "val"), ("shapes:val", None)])
def test_a_named_split(world: Path, name: str, split: str | None) -> None:
    dataset = load_dataset(name, split=split, data_root=world.parent)
    assert dataset.source.dataset == f"{name.partition(':')[0]}:val"
    again = load_source(dataset.source)
    assert (again.name, again.split) == (dataset.name, "val")
    assert same(again, dataset)


def test_a_name_without_a_split_is_that_name(world: Path) -> None:
    dataset = load_dataset("shapes", data_root=world.parent)
    assert dataset.source.dataset == "shapes"
    assert load_source(dataset.source).split == dataset.split == "train"


def test_a_selection_keeps_its_source(place: Path) -> None:
    dataset = load()
    assert dataset.select(np.array([1, 2])).source == dataset.source
    assert replace(dataset, name="other").source == dataset.source
