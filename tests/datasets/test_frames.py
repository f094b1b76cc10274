"""Boxes of pictures that EXIF turns, from one format to another."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from regionspot_cache.datasets.box_formats import FORMATS, Answers, in_frame, read_boxes
from regionspot_cache.datasets.box_formats.frames import turned

BOX = (3, 5, 17, 11)


def drawn(path: Path, orientation: int) -> Path:
    """A black picture with a white box, to be turned."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_lies_where_the_turned_picture_shows_it(orientation: int, tmp_path: Path) -> None:
    shown = ImageOps.exif_transpose(Image.open(drawn(tmp_path / "a.png", orientation)))
    found = turned(np.array([BOX], np.float32), 40, 30, orientation)
    assert found.tolist() == [list(map(float, shown.getbbox()))]


@pytest.mark.parametrize("orientation", [1, 2, 5, 6, 8])
def test_there_and_back_through_yolo(orientation: int, tmp_path: Path) -> None:
    drawn(tmp_path / "a.png", orientation)
    (tmp_path / "gone.png").write_bytes(b"")
    rows = ["image,x0,y0,x1,y1,name", f"a.png,{','.join(map(str, BOX))},dog", "gone.png,1,1,9,9,dog"]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    boxes, _ = in_frame(read_boxes(tmp_path / "a.csv"), FORMATS["yolo"].exif)
    FORMATS["yolo"].write(tmp_path / "yolo", unanswered(boxes))
    (tmp_path / "yolo" / "gone.txt").unlink(missing_ok=True)
    again = read_boxes(tmp_path / "yolo", tmp_path)
    assert (int(again.dataset.widths[0]), int(again.dataset.heights[0])) == (
        (30, 40) if orientation >= 5 else (40, 30)
    )
    back, _ = in_frame(again, FORMATS["csv"].exif)
    np.testing.assert_allclose(back.dataset.boxes, [BOX], atol=1e-4)
    assert (int(back.dataset.widths[0]), int(back.dataset.heights[0])) == (40, 30)


def test_proposed_boxes_are_turned_too(tmp_path: Path) -> None:
    drawn(tmp_path / "a.png", 6)
    boxes = read_boxes(tmp_path)
    proposed = np.array([BOX], np.float32), np.array([0, 1])
    _, found = in_frame(boxes, "apply", proposed)
    np.testing.assert_array_equal(found[0], [[19, 3, 25, 17]])
    assert in_frame(boxes, "ignore", proposed) == (boxes, proposed)


def unanswered(boxes) -> Answers:
    count = boxes.dataset.num_boxes
    return Answers(boxes, np.full((count, 1), -1, np.int32), np.zeros((count, 1)), np.zeros(count), ("dog",))
