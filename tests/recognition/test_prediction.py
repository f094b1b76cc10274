"""A prediction in its forms."""

import sys

import numpy as np
import pytest

from regionspot_cache.errors import UsageError
from regionspot_cache.recognition.prediction import IN_TABLE, Prediction, Region

CLASSES = ("car", "<b>bus</b>", "tram")


def made(boxes: int = 2) -> Prediction:
    rows = np.array([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]], np.float32)
    return Prediction(
        boxes=np.array([[1, 2, 11.25, 22.75], [0, 0, 40, 30]] * 60, np.float32)[:boxes],
        probabilities=np.tile(rows, (60, 1))[:boxes],
        classes=CLASSES,
        image=np.zeros((30, 40, 3), np.uint8),
    )


def test_it_is_a_row_of_regions() -> None:
    found = made()
    assert len(found) == 2
    assert found.names == ("<b>bus</b>", "car")
    assert list(found) == [found[0], found[1]]
    assert found[-1] == Region((0, 0, 40, 30), "car", pytest.approx(0.7))
    assert found[1:] == [found[1]]
    assert found[::-1] == [found[1], found[0]]
    with pytest.raises(IndexError):
        found[2]
    assert repr(found) == "Prediction(2 regions: <b>bus</b> 0.50, car 0.70)"
    assert repr(made(0)) == "Prediction(0 regions)"
    assert repr(made(9)).endswith(", ...)")
    assert repr(made(1)).startswith("Prediction(1 region:")


def test_top() -> None:
    first, second = made().top(2)
    assert [name for name, _ in first] == ["<b>bus</b>", "tram"]
    assert second == [("car", pytest.approx(0.7)), ("tram", pytest.approx(0.2))]
    assert [len(row) for row in made().top(9)] == [3, 3]
    assert made().top(0) == [[], []]
    assert made(0).top(2) == []


def test_dictionaries_of_transformers() -> None:
    assert made().to_transformers()[0] == {
        "score": pytest.approx(0.5),
        "label": "<b>bus</b>",
        "box": {"xmin": 1, "ymin": 2, "xmax": 11, "ymax": 23},
    }
    assert made(0).to_transformers() == []


def test_coco_results() -> None:
    first, second = made().to_coco(7)
    assert first == {
        "image_id": 7,
        "category_id": 2,
        "bbox": [1, 2, 10.25, 20.75],
        "score": pytest.approx(0.5),
    }
    assert second["category_id"] == 1
    assert [one["category_id"] for one in made().to_coco("a", {"car": 30, "<b>bus</b>": 20})] == [20, 30]
    with pytest.raises(UsageError, match="car"):
        made().to_coco(7, {"<b>bus</b>": 20})


def test_pandas() -> None:
    pytest.importorskip("pandas")
    table = made().to_pandas()
    assert list(table.columns) == ["xmin", "ymin", "xmax", "ymax", "name", "score"]
    assert table.iloc[1].tolist() == [0, 0, 40, 30, "car", pytest.approx(0.7)]
    assert len(made(0).to_pandas()) == 0


def test_supervision() -> None:
    pytest.importorskip("supervision")
    found = made().to_supervision()
    np.testing.assert_array_equal(found.xyxy, made().boxes)
    assert found.class_id.tolist() == [1, 0]
    assert found["class_name"].tolist() == ["<b>bus</b>", "car"]
    assert len(made(0).to_supervision()) == 0


@pytest.mark.parametrize("form", ["pandas", "supervision"])
def test_a_library_that_is_not_there(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, form, None)
    with pytest.raises(UsageError) as caught:
        getattr(made(), f"to_{form}")()
    assert caught.value.remedy == f"pip install {form}"


def test_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = made().picture(side=400)
    assert picture.size == (400, 300)
    assert np.asarray(picture).max() > 0  # the boxes
    assert np.asarray(made(0).picture(side=400)).max() == 0
    shown = []
    monkeypatch.setattr("PIL.Image.Image.show", lambda self: shown.append(self.size))
    made().show()
    assert shown == [(1024, 768)]


def test_the_page_of_a_notebook_shows_names_as_text() -> None:
    page = made(IN_TABLE + 3)._repr_html_()
    assert "<b>" not in page
    assert "&lt;b&gt;bus&lt;/b&gt;" in page
    assert page.count("<tr>") == IN_TABLE + 1
    assert "and 3 more" in page
    assert 'src="data:image/png;base64,' in page
