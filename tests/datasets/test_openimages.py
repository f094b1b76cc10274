"""The OpenImages reader: columns by name, pixels from fractions, layouts, sizes, bad rows."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regionspot_cache.datasets.images import resolve_image
from regionspot_cache.datasets.openimages import read_openimages
from regionspot_cache.datasets.records import DetectionDataset
from regionspot_cache.datasets.regions import BoxPolicy
from regionspot_cache.errors import InputError, MissingFileError
from tests.datasets.builders import BOX_HEADER, image_file, openimages_row, write_csv

TORTOISE, CONTAINER, MAGPIE = "/m/011k07", "/m/011q46kg", "/m/012074"
CLASSES = f"{TORTOISE},Tortoise\n{CONTAINER},Container\n{MAGPIE}, Bat (Animal) \n"
ROWS = [
    openimages_row("0001eeaf4aed83f9", MAGPIE, (0.25, 0.1, 0.75, 0.9)),
    openimages_row("a0b1", TORTOISE, (0, 0, 1, 1), group=1),
    openimages_row(
        "0001eeaf4aed83f9", TORTOISE, (0.5, 0.5, 1.2, 1.1), group=-1
    ),  # not contiguous, over the border
    openimages_row("a0b1", TORTOISE, (0.5, 0.5, 0.5, 0.9)),
]


def read(
    root: Path, rows: list = ROWS, layout: str = "train/{name}", classes: str = CLASSES, **options: object
) -> DetectionDataset:
    for row in rows:
        name = row["ImageID"] + ".jpg"
        image_file(root / layout.format(name=name, digit=name[0]), size=(200, 100))
    (root / "classes.csv").write_text(classes)
    boxes = write_csv(root / "boxes.csv", rows)
    return read_openimages(boxes, root / "classes.csv", split="train", roots=[root], **options)


def test_fractions_become_pixels_and_ids_are_rows_of_the_class_file(tmp_path: Path) -> None:
    dataset = read(tmp_path)
    assert dataset.image_ids == ["0001eeaf4aed83f9", "a0b1"]
    assert dataset.class_names == ("Tortoise", "Container", "Bat (Animal)")
    assert dataset.category_ids.tolist() == [1, 2, 3]
    assert dataset.labels.tolist() == [2, 0]
    np.testing.assert_allclose(dataset.boxes, [[50, 10, 150, 90], [100, 50, 200, 100]], rtol=1e-6)
    assert dataset.annotation_ids.tolist() == [1, 3]
    assert dataset.dropped == {"crowd": 1, "too small": 1}
    assert (dataset.format, dataset.exif) == ("openimages", "ignore")
    files = (tmp_path / "boxes.csv").read_bytes() + (tmp_path / "classes.csv").read_bytes()
    assert dataset.annotation_sha256 == hashlib.sha256(files).hexdigest()


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    expected = read(tmp_path / "a")
    header = ["XClick1X", *BOX_HEADER[::-1], "XClick2X"]
    (tmp_path / "b").mkdir()
    boxes = write_csv(tmp_path / "b" / "boxes.csv", [{**row, "XClick1X": 0.5} for row in ROWS], header)
    dataset = read_openimages(boxes, tmp_path / "a" / "classes.csv", split="train", roots=[tmp_path / "a"])
    np.testing.assert_array_equal(dataset.boxes, expected.boxes)


@pytest.mark.parametrize(
    "layout",
    [
        "train/{name}",
        "train/{digit}/{name}",
        "train_{digit}/{name}",
        "train/train_{digit}/{name}",
        "train/data/{name}",
        "{name}",
        "{digit}/{name}",
    ],
)
def test_images_are_found_in_every_usual_layout(tmp_path: Path, layout: str) -> None:
    for record in read(tmp_path, layout=layout):
        assert resolve_image(tmp_path, record.file_name).is_file()


def test_a_header_in_the_class_file_is_skipped(tmp_path: Path) -> None:
    dataset = read(tmp_path, classes="LabelName,DisplayName\n" + CLASSES)
    assert dataset.class_names[0] == "Tortoise"
    assert dataset.category_ids[0] == 1


def test_sizes_come_from_a_table_when_there_is_one(tmp_path: Path) -> None:
    sizes = tmp_path / "sizes.csv"
    sizes.write_text("image_id,height,width\n0001eeaf4aed83f9,1000,2000\nother,1,1\n")
    boxes = write_csv(tmp_path / "boxes.csv", ROWS)
    (tmp_path / "classes.csv").write_text(CLASSES)
    dataset = read_openimages(
        boxes,
        tmp_path / "classes.csv",
        split="train",
        roots=[tmp_path],
        sizes_csv=sizes,
        require_images=False,
    )
    assert dataset.image_ids == ["0001eeaf4aed83f9"]
    assert (dataset.widths[0], dataset.heights[0]) == (2000, 1000)
    np.testing.assert_allclose(dataset.boxes[0], [500, 100, 1500, 900], rtol=1e-6)
    assert dataset.dropped == {"image: size not positive": 1, "unknown image": 2}


def test_stored_pixel_order_counts_not_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rows = ROWS[:1]
    image_file(tmp_path / "train" / (rows[0]["ImageID"] + ".jpg"), size=(200, 100), exif=exif)
    (tmp_path / "classes.csv").write_text(CLASSES)
    boxes = write_csv(tmp_path / "boxes.csv", rows)
    dataset = read_openimages(boxes, tmp_path / "classes.csv", split="train", roots=[tmp_path])
    assert (dataset.widths[0], dataset.heights[0]) == (200, 100)


def test_images_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    read(tmp_path)
    (tmp_path / "train" / "a0b1.jpg").write_text("not an image")
    rows = [*ROWS, openimages_row("ffff", MAGPIE, (0, 0, 1, 1)), openimages_row("../x", MAGPIE, (0, 0, 1, 1))]
    boxes = write_csv(tmp_path / "boxes.csv", rows)
    dataset = read_openimages(boxes, tmp_path / "classes.csv", split="train", roots=[tmp_path])
    assert dataset.image_ids == ["0001eeaf4aed83f9"]
    assert dataset.dropped == {
        "image: missing": 1,
        "image: undecodable": 1,
        "image: file name leaves the image folder": 1,
        "unknown image": 3,
    }


def test_groups_can_be_kept(tmp_path: Path) -> None:
    dataset = read(tmp_path, policy=BoxPolicy(drop_crowd=False))
    assert dataset.crowd.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ImageID,LabelName\n", "no column XMin"),
        (",".join(BOX_HEADER) + "\n", "has no boxes"),
        (",".join(BOX_HEADER) + "\na0b1,x,/m/011k07,1,0.1\n", "Row 1 .* has 5 of 13 columns"),
        (",".join(BOX_HEADER) + "\na0b1,x,/m/011k07,1,a,1,0,1,0,0,0,0,0\n", "Row 1 .*'a'"),
        (
            ",".join(BOX_HEADER) + "\na0b1,x,/m/zzz,1,0,1,0,1,0,0,0,0,0\n",
            "label '/m/zzz', which .*classes.csv lacks",
        ),
        ("\udcff\udcfe", "not a CSV file"),
    ],
)
def test_broken_box_files_are_refused_by_row(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "boxes.csv").write_text(content, encoding="utf-8", errors="surrogateescape")
    (tmp_path / "classes.csv").write_text(CLASSES)
    with pytest.raises(InputError, match=message) as caught:
        read_openimages(tmp_path / "boxes.csv", tmp_path / "classes.csv", split="train", roots=[tmp_path])
    assert caught.value.expected
    assert caught.value.remedy


def test_numbers_that_are_none_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [openimages_row("a0b1", TORTOISE, corners) for corners in ((0, 0, 1, 1), ("nan", 0, 1, 1))]
    rows += [
        openimages_row("a0b1", TORTOISE, corners) for corners in (("-inf", 0, "1e400", 1), (0, 0, 1e308, 1))
    ]
    dataset = read(tmp_path, rows)
    assert dataset.num_boxes == 1
    assert dataset.dropped == {"non-finite box": 3}


@pytest.mark.parametrize("name", ["boxes.csv", "classes.csv", "sizes.csv"])
def test_files_that_are_no_text_or_no_files_are_named(tmp_path: Path, name: str) -> None:
    read(tmp_path)
    write_csv(tmp_path / "sizes.csv", [], ["ImageID", "Width", "Height"])
    good = (tmp_path / name).read_bytes()
    for wrong in (good + b"\xff\xfe", b"x" * 200_000 + b"," + good):  # the second: a field without end
        (tmp_path / name).write_bytes(wrong)
        with pytest.raises(InputError, match=f"{name} is not a CSV file"):
            again(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(MissingFileError, match=name):
        again(tmp_path)


def again(root: Path) -> DetectionDataset:
    sizes = root / "sizes.csv"
    return read_openimages(
        root / "boxes.csv", root / "classes.csv", split="train", roots=[root], sizes_csv=sizes
    )


def test_a_size_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    read(tmp_path)
    (tmp_path / "sizes.csv").write_text("ImageID,Width,Height\na0b1," + "9" * 5000 + ",3\n")
    with pytest.raises(InputError, match="Row 1 of "):
        again(tmp_path)


@pytest.mark.parametrize("classes", ["", "/m/1\n", "/m/1,a\n/m/1,b\n"])
def test_broken_class_files_are_refused(tmp_path: Path, classes: str) -> None:
    with pytest.raises(InputError, match=r"classes\.csv"):
        read(tmp_path, classes=classes)


def test_without_any_image_the_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text(CLASSES)
    boxes = write_csv(tmp_path / "boxes.csv", ROWS)
    with pytest.raises(MissingFileError, match=r"train/0001eeaf4aed83f9\.jpg"):
        read_openimages(
            boxes, tmp_path / "classes.csv", split="train", roots=[tmp_path], require_images=False
        )
