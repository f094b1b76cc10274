"""The reader of COCO-style files: formats, classes, bad entries, errors."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from regionspot_cache.datasets import assemble
from regionspot_cache.datasets.coco_style import guess_split, read_coco_style
from regionspot_cache.datasets.images import read_image, resolve_image
from regionspot_cache.datasets.objects365 import correct_o365_spelling
from regionspot_cache.datasets.regions import BoxPolicy
from regionspot_cache.errors import InputError, MissingFileError
from tests.datasets.builders import (
    O365_V1,
    O365_V2,
    SHARED,
    SIZE,
    annotation,
    classes,
    coco_json,
    image,
    image_file,
)


def test_classes_are_sorted_by_id_stripped_and_may_repeat(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    categories = [{"id": 90, "name": " zebra "}, {"id": 3, "name": "bat"}, {"id": 7, "name": "bat"}]
    boxes = [annotation(1, 5, 90), annotation(2, 5, 3), annotation(3, 5, 7)]
    dataset = read_coco_style(coco_json(tmp_path / "mine.json", [image(5, "a.jpg")], boxes, categories))
    assert dataset.class_names == ("bat", "bat", "zebra")
    assert dataset.category_ids.tolist() == [3, 7, 90]
    assert dataset.labels.tolist() == [2, 0, 1]
    assert dataset.annotation_ids.tolist() == [1, 2, 3]
    assert (dataset.name, dataset.format, dataset.split, dataset.exif) == ("mine", "coco", "", "ignore")
    record = dataset[0]
    assert (record.image_id, record.file_name, record.width, record.height) == (5, "a.jpg", *SIZE)
    np.testing.assert_array_equal(record.boxes, [[5, 6, 15, 18]] * 3)


def test_boxes_are_grouped_by_image_in_the_order_of_the_images(tmp_path: Path) -> None:
    images = [image(9, "a.jpg"), image("b", "b.jpg"), image(2, "c.jpg")]
    boxes = [annotation(n, owner, bbox=(n, 1, 5, 5)) for n, owner in enumerate([2, 9, "b", 9, 2, 9])]
    dataset = read_coco_style(coco_json(tmp_path / "x.json", images, boxes), require_images=False)
    assert dataset.image_ids == [9, "b", 2]
    assert [record.annotation_ids.tolist() for record in dataset] == [[1, 3, 5], [2], [0, 4]]


def test_the_size_of_the_runs_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [image(n, f"{n}.jpg") for n in range(6)]
    boxes = [annotation(n, n * 5 % 6, bbox=(n % 4, 1, 5, 5)) for n in range(40)]
    file = coco_json(tmp_path / "x.json", images, boxes)
    whole = read_coco_style(file, require_images=False)
    monkeypatch.setattr(assemble, "_BOXES_AT_ONCE", 3)
    runs = read_coco_style(file, require_images=False)
    assert runs.dropped == whole.dropped == {"duplicate box": 28}
    for name in ("offsets", "boxes", "labels", "annotation_ids"):
        np.testing.assert_array_equal(getattr(runs, name), getattr(whole, name))


def test_bad_entries_are_dropped_and_counted_by_reason(tmp_path: Path) -> None:
    nan = float("nan")
    boxes = [
        annotation(1, 1),
        annotation(2, 1),  # repeated
        annotation(3, 1, iscrowd=1, bbox=(1, 1, 4, 4)),
        annotation(4, 1, ignore=1, bbox=(2, 1, 4, 4)),
        annotation(5, 1, bbox=(nan, 1, 4, 4)),
        annotation(6, 1, bbox=(1, 1, 1e300, 4)),
        annotation(7, 1, bbox=(50, 1, 4, 4)),
        annotation(8, 1, bbox=(5, 5, 0, 4)),
        annotation(9, 77),
        annotation(10, 3),
        annotation(11, 1, bbox=(30, 20, 40, 40)),  # reaches over the border
    ]
    images = [
        image(1, "a.jpg"),
        image(2, "empty.jpg"),
        image(3, "../../etc/passwd"),
        image(4, "b.jpg", width=0),
    ]
    dataset = read_coco_style(coco_json(tmp_path / "x.json", images, boxes), require_images=False)
    assert dataset.annotation_ids.tolist() == [1, 11]
    assert dataset.boxes[1].tolist() == [30, 20, 40, 30]
    assert dataset.image_ids == [1, 2]
    assert len(dataset[1].boxes) == 0
    assert dataset.dropped == {
        "duplicate box": 1,
        "crowd": 2,
        "non-finite box": 2,
        "outside image": 1,
        "too small": 1,
        "unknown image": 2,
        "image: file name leaves the image folder": 1,
        "image: size not positive": 1,
    }


def test_groups_are_kept_and_marked_when_the_policy_says_so(tmp_path: Path) -> None:
    file = coco_json(tmp_path / "x.json", [image(1, "a.jpg")], [annotation(3, 1, iscrowd=1)])
    dataset = read_coco_style(file, policy=BoxPolicy(drop_crowd=False), require_images=False)
    assert dataset.crowd.tolist() == [True]
    assert dataset.policy.drop_crowd is False


def test_a_file_without_annotations_keeps_its_images(tmp_path: Path) -> None:
    dataset = read_coco_style(coco_json(tmp_path / "x.json", [image(1, "a.jpg")], []), require_images=False)
    assert (len(dataset), dataset.num_boxes, dataset[0].boxes.shape) == (1, 0, (0, 4))


def test_missing_images_are_an_error_unless_not_needed(tmp_path: Path) -> None:
    file = coco_json(tmp_path / "x.json", [image(1, "a.jpg")], [annotation(1, 1)])
    with pytest.raises(MissingFileError, match="None of the images is there, for example"):
        read_coco_style(file)
    assert len(read_coco_style(file, require_images=False)) == 1


def test_images_behind_a_link_that_leaves_the_root_are_refused(tmp_path: Path) -> None:
    image_file(tmp_path / "elsewhere" / "a.jpg")
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    file = coco_json(root / "x.json", [image(1, "linked/a.jpg")], [])
    with pytest.raises(InputError, match="leaves the image folder"):
        read_coco_style(file, roots=(root,))


# Objects365 ------------------------------------------------------------


def test_objects365_releases_are_told_apart_by_their_classes(tmp_path: Path) -> None:
    image_file(tmp_path / "train" / "obj365_train_000000000001.jpg")
    entry = image(1, "obj365_train_000000000001.jpg")
    v1 = coco_json(tmp_path / "objects365_train.json", [entry], [annotation(1, 1, 8)], O365_V1[::-1])
    dataset = read_coco_style(v1, o365="o365")
    assert (dataset.name, dataset.format, dataset.split) == ("o365v1", "o365v1", "train")
    assert dataset.class_names[dataset.labels[0]] == "tissue"
    assert dataset.file_names == ["train/obj365_train_000000000001.jpg"]
    with pytest.raises(InputError, match=r"does not have the classes of o365v2: it begins 1 person"):
        read_coco_style(v1, o365="o365v2")


@pytest.mark.parametrize("broken", [O365_V1[:3] + O365_V2[3:], classes("a", "b", "c", "d"), O365_V2[:3]])
def test_neither_release_nor_a_mixture_is_objects365(tmp_path: Path, broken: list) -> None:
    file = coco_json(tmp_path / "x.json", [image(1, "a.jpg")], [], broken)
    with pytest.raises(InputError, match="does not have the classes of o365"):
        read_coco_style(file, o365="o365", require_images=False)
    assert read_coco_style(file, require_images=False).format == "coco"


@pytest.mark.parametrize(
    "place",
    [
        "images/v1/patch8/objects365_v1_00420917.jpg",
        "train/images/v1/patch8/objects365_v1_00420917.jpg",
        "train/patch8/objects365_v1_00420917.jpg",
        "patch8/objects365_v1_00420917.jpg",
        "train/objects365_v1_00420917.jpg",
        "images/train/objects365_v1_00420917.jpg",
    ],
)
def test_objects365_v2_images_are_found_wherever_they_were_unpacked(tmp_path: Path, place: str) -> None:
    image_file(tmp_path / place)
    entry = image(420917, "images/v1/patch8/objects365_v1_00420917.jpg")
    file = tmp_path / "zhiyuan_objv2_train.json"
    dataset = read_coco_style(coco_json(file, [entry], [annotation(1, 420917, 4)], O365_V2))
    assert dataset.format == "o365v2"
    assert resolve_image(dataset.image_root, dataset[0].file_name) == tmp_path / place
    assert dataset.class_names[dataset.labels[0]] == "Other Shoes"


def test_objects365_v2_drops_the_images_that_were_never_shipped(tmp_path: Path) -> None:
    absent = image(1, "images/v1/patch6/objects365_v1_00320532.jpg")
    kept = image(2, "images/v1/patch6/objects365_v1_00320533.jpg")
    file = coco_json(tmp_path / "x.json", [absent, kept], [annotation(1, 1), annotation(2, 2)], O365_V2)
    dataset = read_coco_style(file, require_images=False)
    assert (dataset.image_ids, dataset.annotation_ids.tolist()) == ([2], [2])
    assert dataset.dropped == {"image: known to be absent from the archives": 1, "unknown image": 1}


def test_objects365_spelling_is_mended_only_when_asked(tmp_path: Path) -> None:
    file = coco_json(tmp_path / "x.json", [image(1, "a.jpg")], [], O365_V2)
    assert read_coco_style(file, require_images=False).class_names[7:] == ("Moniter/TV", "Formula 1")
    mended = read_coco_style(file, require_images=False, correct_spelling=True)
    assert mended.class_names[7:] == ("Monitor/TV", "Formula 1")
    assert correct_o365_spelling("Dinning Table") == "Dining Table"
    assert correct_o365_spelling("Measuring") == "Measuring"


# LVIS, V3Det ------------------------------------------------------------


def test_lvis_images_come_from_both_coco_folders(tmp_path: Path) -> None:
    urls = [f"http://images.cocodataset.org/{name}" for name in ("val2017/1.jpg", "train2017/2.jpg")]
    images = [image(n, coco_url=url, neg_category_ids=[2]) for n, url in enumerate(urls, 1)]
    images.append(image(3, "COCO_val2014_3.jpg", coco_url="http://x/val2017/3.jpg", neg_category_ids=[]))
    for name in ("val2017/1.jpg", "train2017/2.jpg", "val2017/3.jpg"):
        image_file(tmp_path / "coco" / name)
    categories = [
        {"id": 1, "name": "aerosol_can", "frequency": "c"},
        {"id": 2, "name": "bull", "frequency": "r"},
    ]
    file = coco_json(tmp_path / "lvis_v1_val.json", images, [annotation(1, 2, 2)], categories)
    dataset = read_coco_style(file, roots=(tmp_path / "coco",))
    assert (dataset.format, dataset.split) == ("lvis", "val")
    assert dataset.file_names == ["val2017/1.jpg", "train2017/2.jpg", "val2017/3.jpg"]
    assert dataset.class_frequency == ("c", "r")


def test_an_empty_url_is_no_name(tmp_path: Path) -> None:
    image_file(tmp_path / "COCO_val2014_1.jpg")
    file = coco_json(tmp_path / "x.json", [image(1, "COCO_val2014_1.jpg", coco_url="")], [])
    assert read_coco_style(file).file_names == ["COCO_val2014_1.jpg"]


def test_v3det_keeps_equal_names_apart_and_tolerates_missing_images(tmp_path: Path) -> None:
    root = tmp_path / "V3Det"
    image_file(root / "images" / "n07745046" / "21_371.jpg")
    images = [image(1, "images/n07745046/21_371.jpg"), image(2, "images/n07745046/gone.jpg")]
    categories = [
        {"id": 1, "name": "bat", "cat_info": ["an animal"], "novel": False},
        {"id": 2, "name": "bat", "cat_info": "a club", "novel": True},
    ]
    file = coco_json(
        root / "annotations" / "v3det_2023_v1_train.json", images, [annotation(1, 1, 2)], categories
    )
    for roots in ((), (root,)):
        dataset = read_coco_style(file, roots=roots)
        assert (dataset.format, len(dataset)) == ("v3det", 2)
        assert dataset.class_novel == (False, True)
        path = resolve_image(dataset.image_root, dataset[0].file_name)
        assert read_image(path, expected_size=SIZE).shape == (*SIZE[::-1], 3)


def test_splits_are_guessed_from_file_names() -> None:
    names = ["instances_val2017", "lvis_v1_minival", "zhiyuan_objv2_train", "boxes", "trainval_test"]
    assert [guess_split(Path(f"{name}.json")) for name in names] == ["val", "minival", "train", "", "test"]


# Memory and real files ------------------------------------------------------------


def peak_memory(file: Path, outline: str) -> int:
    """Bytes, for 5,000 boxes with this run-length code each."""
    code = {"size": [30, 40], "counts": outline}
    images = [image(n, f"images/v1/patch8/objects365_v1_{n:08d}.jpg") for n in range(1000)]
    boxes = [annotation(n, n % 1000, bbox=(n // 1000, 3, 9, 9), segmentation=code) for n in range(5_000)]
    coco_json(file, images, boxes)
    del images, boxes
    peaks = []
    for _ in range(2):  # other threads allocate too
        tracemalloc.start()
        dataset = read_coco_style(file, require_images=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert dataset.num_boxes == 5_000
    return min(peaks)


def test_memory_grows_with_the_boxes_and_not_with_the_file(tmp_path: Path) -> None:
    small, large = tmp_path / "small.json", tmp_path / "large.json"
    peaks = peak_memory(small, "x"), peak_memory(large, "x" * 6000)
    assert large.stat().st_size > 30e6 > 8 * small.stat().st_size
    assert peaks[1] < peaks[0] + 4 * 2**20  # the window
    assert peaks[1] < large.stat().st_size / 4


def test_reading_never_imports_torch() -> None:
    code = "import sys, regionspot_cache.datasets.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real annotations beside the repository")
def test_real_coco_annotations(tmp_path: Path) -> None:
    dataset = read_coco_style(SHARED / "real-images" / "instances.json")
    assert (len(dataset), dataset.num_boxes, len(dataset.class_names)) == (31, 182, 80)
    assert dataset.dropped == {"crowd": 2}
    assert dataset.category_ids[-1] == 90
    content = json.loads((SHARED / "real-images" / "instances.json").read_text())
    by_id = {entry["id"]: entry for entry in content["annotations"]}
    for record in dataset:
        path = resolve_image(dataset.image_root, record.file_name)
        read_image(path, expected_size=(record.width, record.height))
        for box, label, number in zip(record.boxes, record.labels, record.annotation_ids, strict=True):
            x, y, w, h = by_id[number]["bbox"]
            np.testing.assert_allclose(box, [x, y, x + w, y + h], atol=0.01)
            assert dataset.category_ids[label] == by_id[number]["category_id"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real annotations beside the repository")
def test_real_lvis_annotations() -> None:
    file = SHARED / "annotation-samples" / "lvis_v0.5_val_100.json"
    dataset = read_coco_style(file, require_images=False)
    assert (len(dataset), dataset.num_boxes, len(dataset.class_names)) == (100, 977, 1230)
    assert dataset.format == "lvis"
    assert set(dataset.class_frequency) == {"r", "c", "f"}
    assert dataset.file_names[0] == "val2017/000000266409.jpg"
