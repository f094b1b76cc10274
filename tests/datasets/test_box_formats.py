"""Boxes in the formats of other tools: what is read, and that nothing of it is lost when it is written."""

import csv
import io
import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from regionspot_cache.datasets.box_formats import FORMATS, Answers, BoxSet, output_format, read_boxes
from regionspot_cache.errors import InputError, MissingFileError

NAMES = ("cat", "red bus", "dog")
OUT = {"coco": "new.json", "label-studio": "tasks.json", "csv": "new.csv", "yolo": "new", "voc": "new"}
BOXES = {
    "a.jpg": [(2, 3, 22, 33, "cat"), (10, 10, 40, 20, "red bus")],
    "b.jpg": [],
    "c.jpg": [(1, 1, 9, 9, "cat")],
}
SIZE = (50, 40)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures in `images`."""
    root = tmp_path_factory.mktemp("photos")
    (root / "images").mkdir()
    for name in BOXES:
        Image.new("RGB", SIZE, (200, 30, 30)).save(root / "images" / name)
    return root


def coco(extra: Any) -> dict[str, Any]:
    images = [
        {"id": i, "file_name": n, "width": 50, "height": 40, "mine": extra} for i, n in enumerate(BOXES)
    ]
    found: list[dict[str, Any]] = []
    for i, boxes in enumerate(BOXES.values()):
        for x0, y0, x1, y1, name in boxes:
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "category_id": 7 + NAMES.index(name)}
            found.append({"id": len(found), "image_id": i, **box, "mine": extra})
    found.append({"id": 99, "image_id": 0, "mine": extra})  # no box
    categories = [{"id": 7 + i, "name": name, "mine": extra} for i, name in enumerate(NAMES[:2])]
    return {"mine": extra, "annotations": found, "images": images, "none": [], "categories": categories}


def tasks(extra: Any) -> list[dict[str, Any]]:
    def result(x0: float, y0: float, x1: float, y1: float, name: str) -> dict[str, Any]:
        box = {"x": 2 * x0, "y": 2.5 * y0, "width": 2 * (x1 - x0), "height": 2.5 * (y1 - y0), "rotation": 0}
        return {"type": "rectanglelabels", "value": {**box, "rectanglelabels": [name]}, "mine": extra}

    return [
        {
            "data": {"image": f"/data/local-files/?d=images/{name}", "mine": extra},
            "annotations": [{"result": [result(*box) for box in boxes], "mine": extra}],
            "predictions": [{"mine": extra}],
        }
        for name, boxes in BOXES.items()
    ]


def table(extra: str) -> str:
    lines = [",".join(["mine", "image", "x0", "y0", "x1", "y1", "name"])]
    lines += [f'"{extra}",{n},{x0},{y0},{x1},{y1},{k}' for n, b in BOXES.items() for x0, y0, x1, y1, k in b]
    return "\n".join([*lines, f'"{extra}",a.jpg,,,,,']) + "\n"


def write_voc(folder: Path, extra: str) -> None:
    folder.mkdir()
    for name, boxes in BOXES.items():
        tree = ET.Element("annotation", {"mine": extra})
        ET.SubElement(tree, "filename").text = name
        for x0, y0, x1, y1, label in boxes:
            entry = ET.SubElement(tree, "object")
            ET.SubElement(entry, "name").text = label
            ET.SubElement(entry, "pose").text = extra
            box = ET.SubElement(entry, "bndbox")
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), (x0, y0, x1, y1), strict=True):
                ET.SubElement(box, key).text = str(value)
        ET.ElementTree(tree).write(folder / f"{Path(name).stem}.xml")


def write_yolo(folder: Path, extra: Any, *, pictures: bool = False) -> None:
    if pictures:
        (folder / "images").mkdir(parents=True)
        for name in BOXES:
            Image.new("RGB", SIZE).save(folder / "images" / name)
    (folder / "labels").mkdir(parents=True)
    (folder / "data.yaml").write_text(
        yaml.safe_dump({"train": "images", "names": [*NAMES[:2]], "nc": 2, "mine": extra})
    )
    for name, boxes in BOXES.items():
        lines = [
            f"{NAMES.index(k)} {(x0 + x1) / 100} {(y0 + y1) / 80} {(x1 - x0) / 50} {(y1 - y0) / 40}"
            for x0, y0, x1, y1, k in boxes
        ]
        (folder / "labels" / f"{Path(name).stem}.txt").write_text("\n".join(lines))


def source(form: str, root: Path, photos: Path, extra: Any = "kept") -> BoxSet:
    """The boxes above in one format, read."""
    path = root / "in" / OUT[form]
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "coco":
        path.write_text(json.dumps(coco(extra)))
    elif form == "label-studio":
        path.write_text(json.dumps(tasks(extra)))
    elif form == "csv":
        path.write_text(table(extra))
    elif form == "voc":
        write_voc(path, extra)
    else:
        write_yolo(path, extra)
        return read_boxes(path, photos)
    return read_boxes(path, photos / "images" if form in ("csv", "voc") else photos)


def answers(boxes: BoxSet, best: int = 2) -> Answers:
    """`dog` for every box."""
    total = boxes.dataset.num_boxes
    rows = np.tile(np.array([best, 0], np.int32), (total, 1))
    scores = np.tile(np.array([0.75, 0.25], np.float32), (total, 1))
    return Answers(boxes, rows, scores, np.full(total, 0.5, np.float32), NAMES)


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("form", FORMATS)
def test_boxes_and_names_are_the_same_in_every_format(
    form: str, to: str, tmp_path: Path, photos: Path
) -> None:
    boxes = source(form, tmp_path, photos)
    assert boxes.format == form
    assert boxes.dataset.num_boxes == 3
    FORMATS[to].write(tmp_path / OUT[to], answers(boxes))
    again = read_boxes(tmp_path / OUT[to], photos if to == "yolo" else Path(boxes.dataset.image_root))
    np.testing.assert_allclose(again.dataset.boxes, [b[:4] for n in BOXES.values() for b in n], atol=1e-4)
    names = {again.dataset.class_names[k] for k in again.dataset.labels}
    # The annotations of tasks stay, the answer is one prediction more.
    assert names == ({"cat", "red bus"} if (form, to) == ("label-studio",) * 2 else {"dog"})


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 1 << 60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=15)
@given(extra=values)
def test_every_field_of_json_is_kept(
    extra: Any, tmp_path_factory: pytest.TempPathFactory, photos: Path
) -> None:
    root = tmp_path_factory.mktemp("json")
    FORMATS["coco"].write(root / "new.json", answers(source("coco", root, photos, extra)))
    new, old = json.loads((root / "new.json").read_text()), coco(extra)
    assert list(new) == list(old)
    assert (new["mine"], new["images"], new["none"]) == (old["mine"], old["images"], old["none"])
    assert new["categories"] == [*old["categories"], {"id": 9, "name": "dog"}]
    assert [entry | {"category_id": 9} for entry in old["annotations"][:-1]] == [
        {key: entry[key] for key in ("id", "image_id", "bbox", "category_id", "mine")}
        for entry in new["annotations"][:-1]
    ]
    assert new["annotations"][-1] == old["annotations"][-1]  # without a box: untouched
    said = {"score": 0.75, "margin": 0.5, "names": ["dog", "cat"], "scores": [0.75, 0.25], "was": "cat"}
    assert {key: new["annotations"][0][key] for key in said} == said

    FORMATS["label-studio"].write(root / "t.json", answers(source("label-studio", root, photos, extra)))
    for new_task, old_task in zip(json.loads((root / "t.json").read_text()), tasks(extra), strict=True):
        assert new_task["predictions"][0] == old_task["predictions"][0]
        assert new_task | {"predictions": 0} == old_task | {"predictions": 0}


@settings(max_examples=15)
@given(
    extra=st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc"), exclude_characters='"'))
)
def test_every_column_element_and_key_is_kept(
    extra: str, tmp_path_factory: pytest.TempPathFactory, photos: Path
) -> None:
    root = tmp_path_factory.mktemp("text")
    for form in ("csv", "voc", "yolo"):
        FORMATS[form].write(root / OUT[form], answers(source(form, root, photos, extra)))
        if form == "csv":
            rows = list(csv.DictReader(io.StringIO((root / OUT[form]).read_text(), newline="")))
            assert [row["mine"] for row in rows] == [extra] * 4
            assert [row["name"] for row in rows] == ["dog"] * 3 + [""]  # the last has no box
        elif form == "voc":
            tree = ET.parse(root / OUT[form] / "Annotations" / "a.xml").getroot()
            assert tree.get("mine") == extra
            assert [(e.findtext("pose") or "", e.findtext("was")) for e in tree.iter("object")] == [
                (extra, "cat"),
                (extra, "red bus"),
            ]
        else:
            found = yaml.safe_load((root / OUT[form] / "data.yaml").read_text())
            assert found == {
                "train": "images",
                "names": {0: "cat", 1: "red bus", 2: "dog"},
                "nc": 3,
                "mine": extra,
            }


def test_proposed_boxes_take_the_place_of_those_there(tmp_path: Path, photos: Path) -> None:
    new = np.array([[5, 5, 15, 25]], np.float32), np.array([0, 0, 1, 1])
    for form in FORMATS:
        boxes = source(form, tmp_path / form, photos)
        rows, scores = np.array([[1, 0]], np.int32), np.array([[0.9, 0.1]], np.float32)
        found = Answers(boxes, rows, scores, np.ones(1, np.float32), NAMES, proposed=new)
        FORMATS[form].write(tmp_path / form / OUT[form], found)
        if form == "label-studio":
            task = json.loads((tmp_path / form / OUT[form]).read_text())[1]
            [result] = task["predictions"][-1]["result"]
            assert result["value"]["x"] == pytest.approx(10)
            continue
        again = read_boxes(
            tmp_path / form / OUT[form], photos if form == "yolo" else boxes.dataset.image_root
        )
        np.testing.assert_allclose(again.dataset.boxes, [[5, 5, 15, 25]], atol=1e-4)


def test_polygons_of_yolo_keep_their_corners(tmp_path: Path, photos: Path) -> None:
    write_yolo(tmp_path / "set", 1)
    (tmp_path / "set" / "labels" / "b.txt").write_text("1 0.1 0.1 0.5 0.1 0.3 0.8\n")
    assert read_boxes(tmp_path / "set", photos).dataset.num_boxes == 4  # labels beside data.yaml
    shutil.copytree(photos / "images", tmp_path / "set" / "images")
    boxes = read_boxes(tmp_path / "set")
    np.testing.assert_allclose(boxes.dataset[1].boxes, [[5, 4, 25, 32]], atol=1e-4)
    FORMATS["yolo"].write(tmp_path / "new", answers(boxes))
    assert (tmp_path / "new" / "labels" / "b.txt").read_text() == "2 0.1 0.1 0.5 0.1 0.3 0.8\n"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.csv", "image,x0\n", "no column y0, x1, y1"),
        ("a.csv", "image;x0,y0\n", "no column image, x0, x1, y1; it has: image;x0, y0"),
        ("a.csv", "", "it has: nothing"),
        ("a.csv", "image,x0,y0,x1,y1,x0\na,1,2,3,4,5\n", "two columns 'x0'"),
        ("a.csv", "image,x0,y0,x1,y1\na,1,2,3,4,5\n", "6 values under 5 columns"),
        ("a.json", '{"images": 1}', "lists no images|no images"),
        ("a.json", '{"images": [{"id": 1}]}', "file_name|coco_url"),
        ("a.json", '[{"image": 1}]', "is no task"),
        ("a.json", '[{"data": {}}]', "has no image"),
        ("a.txt", "x", "no known format"),
        ("a.yaml", "names: [a]", "names no images"),
        ("a.yaml", "{train: x, path: ../..}", "leads out of its folder"),
        ("a.yaml", "{train: ../../x}", "leaves the image folder"),
        ("f/a.xml", "<annotation>", "is not XML"),
        ("f/a.xml", "<html/>", "holds <html>"),
    ],
)
def test_what_cannot_be_read_is_said(name: str, text: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(InputError, match=found):
        read_boxes(path.parent if path.suffix == ".xml" else path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_of_every_program_keep_their_columns(delimiter: str, end: str, tmp_path: Path) -> None:
    Image.new("RGB", SIZE).save(tmp_path / "a.png")
    rows = ["image,x0,y0,x1,y1,note", "a.png,1,2,30,20,one", "a.png,5,5,9,9,"]
    text = "\ufeff" + end.join(rows).replace(",", delimiter) + end
    (tmp_path / "in.csv").write_bytes(text.encode())
    boxes = read_boxes(tmp_path / "in.csv")
    np.testing.assert_array_equal(boxes.dataset.boxes, [[1, 2, 30, 20], [5, 5, 9, 9]])
    FORMATS["csv"].write(tmp_path / "out.csv", answers(boxes))
    first, *others = (tmp_path / "out.csv").read_text().splitlines()
    assert first.split(delimiter)[:7] == [*rows[0].split(","), "name"]
    assert [line.split(delimiter)[:6] for line in others] == [row.split(",") for row in rows[1:]]


def test_a_table_without_rows_keeps_its_columns(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("image,x0,y0,x1,y1,note\n")
    FORMATS["csv"].write(tmp_path / "out.csv", answers(read_boxes(tmp_path / "in.csv")))
    assert (tmp_path / "out.csv").read_text().startswith("image,x0,y0,x1,y1,note,name,")


def test_a_folder_of_nothing_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither boxes nor pictures"):
        read_boxes(tmp_path)
    with pytest.raises(MissingFileError):
        read_boxes(tmp_path / "none")


def test_missing_and_outside_images_are_failures(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,x0,y0,x1,y1\nnone.jpg,1,1,5,5\n../secret.jpg,1,1,5,5\n")
    boxes = read_boxes(tmp_path / "a.csv")
    assert [failure.reason for failure in boxes.failures.values()] == ["missing", "outside root"]
    assert boxes.dataset.num_boxes == 0
    assert not boxes.dataset.dropped


def test_names_that_leave_the_set_are_neither_read_nor_written(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data.yaml").write_text("{train: train.txt, names: [a]}")
    (tmp_path / "set" / "train.txt").write_text("../../secret.jpg\n")
    (tmp_path.parent / "secret.txt").write_text("0 .5 .5 .1 .1\n")
    boxes = read_boxes(tmp_path / "set")
    assert boxes.dataset.num_boxes == 0
    FORMATS["yolo"].write(tmp_path / "deep" / "new", answers(boxes))
    assert not list((tmp_path / "deep").rglob("secret.txt"))
    assert (tmp_path.parent / "secret.txt").read_text() == "0 .5 .5 .1 .1\n"


def test_pictures_of_one_stem_do_not_share_a_file(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", SIZE).save(tmp_path / name)
    boxes = read_boxes(tmp_path)
    FORMATS["voc"].write(tmp_path / "voc", answers(boxes))
    assert len(list((tmp_path / "voc" / "Annotations").iterdir())) == 2
    with pytest.raises(InputError, match="same label file"):
        FORMATS["yolo"].write(tmp_path / "yolo", answers(boxes))
    assert not (tmp_path / "yolo").exists()


def test_the_format_of_the_output(tmp_path: Path, photos: Path) -> None:
    boxes = source("label-studio", tmp_path, photos)
    assert output_format(Path("a.json"), None, boxes) == "label-studio"
    assert output_format(Path("a.json"), "coco", boxes) == "coco"
    assert output_format(Path("a.CSV"), None, boxes) == "csv"
    for out, named in (("a", None), ("a.txt", None), ("a.json", "csv"), ("a.json", "voc")):
        with pytest.raises(InputError):
            output_format(Path(out), named, boxes)
