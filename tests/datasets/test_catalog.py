"""Datasets by name, and what is said when they are not there."""

import functools
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.datasets import evaluation_split, shapes
from regionspot_cache.datasets.catalog import DATASET_NAMES, load_dataset
from regionspot_cache.errors import InputError, MissingFileError, UsageError
from tests.datasets.builders import (
    O365_V1,
    O365_V2,
    SHARED,
    annotation,
    coco_json,
    image,
    image_file,
    openimages_row,
    write_csv,
)


def objects365(root: Path, version: str, split: str = "train") -> None:
    stem = f"objects365_{split}" if version == "v1" else f"zhiyuan_objv2_{split}"
    folder = root / "objects365"
    image_file(folder / split / f"{version}.jpg")
    file = folder / f"{stem}.json"
    coco_json(file, [image(1, f"{version}.jpg")], [annotation(1, 1)], O365_V1 if version == "v1" else O365_V2)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_objects365_is_whichever_release_is_there(tmp_path: Path, version: str) -> None:
    objects365(tmp_path, version)
    for name in ("o365", "o365:train", f"o365{version}"):
        dataset = load_dataset(name, data_root=tmp_path)
        # The name as asked: the usual cache of `--dataset o365` is the one that configs/train/bl.yaml reads.
        assert (dataset.name, dataset.split, dataset.format) == (
            name.partition(":")[0],
            "train",
            f"o365{version}",
        )
        assert (dataset.image_root / dataset[0].file_name).is_file()


def test_both_releases_at_once_need_a_choice(tmp_path: Path) -> None:
    objects365(tmp_path, "v1")
    objects365(tmp_path, "v2")
    with pytest.raises(InputError, match="Both releases of Objects365"):
        load_dataset("o365", data_root=tmp_path)
    assert load_dataset("o365v2", data_root=tmp_path).class_names[3] == "Other Shoes"


def test_one_release_under_the_name_of_the_other_is_refused(tmp_path: Path) -> None:
    objects365(tmp_path, "v1")
    folder = tmp_path / "objects365"
    (folder / "objects365_train.json").rename(folder / "zhiyuan_objv2_train.json")
    with pytest.raises(InputError, match="does not have the classes of o365v2"):
        load_dataset("o365v2", data_root=tmp_path)


def test_coco_and_lvis_share_the_coco_images(tmp_path: Path) -> None:
    image_file(tmp_path / "coco" / "train2017" / "1.jpg")
    image_file(tmp_path / "coco" / "val2017" / "2.jpg")
    coco_json(tmp_path / "coco/annotations/instances_val2017.json", [image(2, "2.jpg")], [annotation(1, 2)])
    urls = ["http://images.cocodataset.org/train2017/1.jpg", "http://images.cocodataset.org/val2017/2.jpg"]
    images = [image(n, coco_url=url, neg_category_ids=[]) for n, url in enumerate(urls, 1)]
    coco_json(tmp_path / "lvis/lvis_v1_val.json", images, [annotation(1, 1)])
    coco, lvis = load_dataset("coco", data_root=tmp_path), load_dataset("lvis", data_root=tmp_path)
    assert (coco.name, coco.split, coco.file_names) == ("coco", "val", ["val2017/2.jpg"])
    assert (lvis.name, lvis.split, lvis.file_names) == ("lvis", "val", ["train2017/1.jpg", "val2017/2.jpg"])


def test_v3det_and_openimages_from_their_usual_places(tmp_path: Path) -> None:
    image_file(tmp_path / "V3Det/images/n1/a.jpg")
    file = tmp_path / "V3Det/annotations/v3det_2023_v1_train.json"
    coco_json(file, [image(1, "images/n1/a.jpg")], [annotation(1, 1)])
    assert load_dataset("v3det", data_root=tmp_path).file_names == ["images/n1/a.jpg"]
    folder = tmp_path / "openimages"
    image_file(folder / "validation" / "a0.jpg")
    write_csv(folder / "validation-annotations-bbox.csv", [openimages_row("a0", "/m/1", (0, 0, 0.5, 0.5))])
    (folder / "class-descriptions-boxable.csv").write_text("/m/1,Cat\n")
    dataset = load_dataset("openimages:validation", data_root=tmp_path)
    assert (dataset.split, dataset.file_names) == ("validation", ["validation/a0.jpg"])
    (folder / "validation_sizes-00000-of-00001.csv").write_text("ImageID,Width,Height\na0,80,60\n")
    assert load_dataset("openimages:validation", data_root=tmp_path).boxes.tolist() == [[0, 0, 40, 30]]


@pytest.mark.parametrize(
    ("name", "mentions"),
    [
        (
            "o365",
            ["objects365/objects365_train.json", "objects365/zhiyuan_objv2_train.json", "objects365.org"],
        ),
        ("o365v2:val", ["objects365/zhiyuan_objv2_val.json", "patchN", "dorc.ks3-cn-beijing.ksyun.com"]),
        (
            "openimages",
            ["oidv6-train-annotations-bbox.csv", "class-descriptions", "s3://open-images-dataset/train"],
        ),
        ("v3det", ["V3Det/annotations/v3det_2023_v1_train.json", "github.com/V3Det/V3Det"]),
        ("lvis", ["lvis/lvis_v1_val.json", "train2017", "val2017", "lvisdataset.org"]),
        ("coco:train", ["coco/annotations/instances_train2017.json", "coco/train2017", "cocodataset.org"]),
    ],
)
def test_absent_data_is_described_with_its_place_and_its_source(
    tmp_path: Path, name: str, mentions: list[str]
) -> None:
    with pytest.raises(MissingFileError) as caught:
        load_dataset(name, data_root=tmp_path)
    assert str(tmp_path) in caught.value.expected
    for text in mentions:
        assert text in caught.value.expected
    assert "{" not in str(caught.value).replace("{validation,test}", "")
    assert caught.value.remedy


def test_unknown_names_and_splits_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean openimages"):
        load_dataset("openimage", data_root=tmp_path)
    with pytest.raises(UsageError, match="no split 'test'"):
        load_dataset("coco:test", data_root=tmp_path)
    with pytest.raises(UsageError, match="One split"):
        load_dataset("coco:val", split="train", data_root=tmp_path)
    with pytest.raises(MissingFileError, match=r"none\.json"):
        load_dataset(str(tmp_path / "none.json"), data_root=tmp_path)
    assert "shapes" in DATASET_NAMES


def test_a_file_of_ones_own_with_a_folder_of_images(tmp_path: Path) -> None:
    image_file(tmp_path / "pictures" / "ü.jpg")
    file = coco_json(tmp_path / "boxes" / "mine_val.json", [image(1, "ü.jpg")], [annotation(1, 1)])
    dataset = load_dataset(str(file), data_root=tmp_path, images=tmp_path / "pictures")
    assert (dataset.name, dataset.split, dataset.image_root) == ("mine_val", "val", tmp_path / "pictures")
    with pytest.raises(MissingFileError, match="no image folder"):
        load_dataset(str(file), data_root=tmp_path, images=tmp_path / "none")
    with pytest.raises(MissingFileError, match="None of the images"):
        load_dataset(str(file), data_root=tmp_path)
    assert len(load_dataset(str(file), data_root=tmp_path, require_images=False)) == 1


def test_shapes_is_drawn_on_first_use_and_then_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = functools.partial(shapes.materialise, train=3, val=2, processes=1)
    monkeypatch.setattr(shapes, "materialise", small)
    train = load_dataset("shapes", data_root=tmp_path)
    stamp = (tmp_path / "shapes" / "train.json").stat().st_mtime_ns
    val = load_dataset("shapes:val", data_root=tmp_path, limit=1)
    assert (len(train), len(val)) == (3, 1)
    assert (train.name, train.split, train.format) == ("shapes", "train", "lvis")
    assert (train.image_root / train[0].file_name).is_file()
    assert train.class_names == val.class_names
    assert not np.isin(train.labels, np.flatnonzero(train.class_novel)).any()
    assert (tmp_path / "shapes" / "train.json").stat().st_mtime_ns == stamp


def test_label_spaces_of_shapes_share_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    small = functools.partial(
        shapes.materialise, train=7, val=1, processes=1, progress=lambda *step: drawn.append(step)
    )
    monkeypatch.setattr(shapes, "materialise", lambda root, progress: small(root))
    spaces = [load_dataset(f"shapes-{space}", data_root=tmp_path) for space in "sml"]
    assert drawn == [(7, 8), (8, 8)]  # once for all three
    assert [len(dataset.class_names) for dataset in spaces] == [64, 128, 256]
    assert [(d.name, d.split, d.format) for d in spaces] == [(f"shapes-{s}", "train", "lvis") for s in "sml"]
    whole = load_dataset("shapes", data_root=tmp_path)
    assert sorted(name for d in spaces for name in d.file_names) == whole.file_names
    assert all((d.image_root / d[0].file_name).is_file() for d in spaces)
    limited = load_dataset("shapes-s:train", data_root=tmp_path, limit=1)
    assert len(limited) == 1


def test_label_spaces_are_for_training_only(tmp_path: Path) -> None:
    for name, split in (("shapes-m:val", None), ("shapes-m", "val")):
        with pytest.raises(UsageError, match="no split 'val'") as caught:
            load_dataset(name, split=split, data_root=tmp_path)
        assert "shapes:val" in caught.value.remedy
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real images beside the repository")
def test_real_images_with_either_way_to_name_the_folder() -> None:
    file = SHARED / "real-images" / "instances.json"
    found = load_dataset(str(file), data_root=Path("unused"))
    named = load_dataset(str(file), data_root=Path("unused"), images=SHARED / "real-images" / "images")
    assert [found.image_root / name for name in found.file_names] == [
        named.image_root / name for name in named.file_names
    ]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "val") for name in ("shapes", "o365", "o365v1", "o365v2", "v3det", "lvis", "coco")),
        *((name, "train") for name in ("shapes-s", "shapes-m", "shapes-l")),
        ("openimages", "validation"),
    ],
)
def test_the_split_that_a_dataset_is_evaluated_on(name: str, split: str) -> None:
    assert evaluation_split(name) == split
