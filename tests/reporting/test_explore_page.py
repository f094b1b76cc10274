"""The page to explore regions: one file without anything from elsewhere, names as text, labels for all."""

import base64
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from regionspot_cache.datasets.images import ImageFailure
from regionspot_cache.reporting.explore_page import (
    THUMBNAIL,
    doubtful,
    embed_pictures,
    packed,
    packed_attention,
    page_data,
    render_explore,
    thumbnail,
)
from regionspot_cache.reporting.regions_table import region_table
from tests.reporting.regions import CLASSES, dataset_in, regions_of
from tests.reporting.test_page import Page

ODD = 'Regions of <b>&"x"'


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    return region_table(regions_of(dataset_in(tmp_path)), {"method": "m", "map": "pca"})


@pytest.fixture
def html(table: pa.Table) -> str:
    return render_explore(ODD, page_data(table, {"method": CLASSES[0], "map": "pca"}))


def read(html: str) -> Page:
    return Page(re.sub(r"<(input|link)\b([^>]*)>", r"<\1\2/>", html))


def data_of(html: str) -> dict[str, Any]:
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])  # type: ignore[index]


def test_names_never_become_elements(html: str) -> None:
    page = read(html)
    assert len(page.all("script")) == 2
    assert not page.all("b")
    assert "<script>alert" not in html
    assert CLASSES[0] in data_of(html)["names"]
    assert page.text.count(ODD) == 2  # title and heading


def test_the_policy_lets_its_own_script_run_alone(html: str) -> None:
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    [script] = scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(m["content"] for m in read(html).all("meta") if m.get("http-equiv"))
    assert f"script-src 'sha256-{digest}'" in str(policy)
    assert "default-src 'none'" in str(policy)
    assert "connect-src" not in str(policy)
    assert "http" not in re.sub(r"http-equiv", "", html)
    assert "connect-src 'self'" in render_explore("t", {"token": "x"}, served=True)


def test_everything_to_operate_has_a_name(html: str) -> None:
    page = read(html)
    labelled = {label.get("for") for label in page.all("label")}
    for tag in ("input", "select"):
        for one in page.all(tag):
            wrapped = re.search(
                rf'<label>[^<]*(<output[^>]*>[^<]*</output>\s*)?<{tag} id="{one["id"]}"', html
            )
            assert one["id"] in labelled or wrapped, one
    assert all(
        re.search(rf'id="{b["id"]}"[^>]*>[^<]+</button>', html) for b in page.all("button") if b.get("id")
    )
    assert all(section.get("aria-label") for section in page.all("section"))
    ids = [attrs["id"] for _, attrs in page.elements if attrs.get("id")]
    assert len(ids) == len(set(ids))
    assert {"status", "list", "map"} <= set(ids)
    assert set(re.findall(r'\$\("([\w-]+)"\)', html)) <= set(ids)  # what the script asks for is there


def test_rows_are_as_in_the_table(table: pa.Table, html: str) -> None:
    data = data_of(html)
    names = data["names"]
    assert [names[i] for i in data["class"]] == table["class"].to_pylist()
    assert [[names[i] for i in row] for row in data["top"]] == table["top_names"].to_pylist()
    assert data["images"][2] == [12, "p2.png", 40, 30]
    assert data["image"] == [0, 0, 0, 1, 2, 2]
    assert data["neighbours"] == [row["ids"] for row in table["neighbours"].to_pylist()]
    np.testing.assert_allclose([s[0] for s in data["scores"]], table["score"].to_numpy(), atol=1e-4)


def test_regions_without_names_have_a_page_too(tmp_path: Path) -> None:
    table = region_table(regions_of(dataset_in(tmp_path), named=False), {})
    data = data_of(render_explore("t", page_data(table, {})))
    assert (data["class"], data["names"], data["top"][0]) == ([-1] * 6, [], [])
    assert doubtful(table).tolist() == np.argsort(-table["novelty"].to_numpy(), kind="stable").tolist()


def test_sure_predictions_that_differ_come_first(table: pa.Table) -> None:
    order = doubtful(table).tolist()
    rows = table.select(["class", "predicted", "margin"]).take(order).to_pylist()
    differ = [row["class"] != row["predicted"] for row in rows]
    assert differ == sorted(differ, reverse=True)
    margins = [row["margin"] for row, other in zip(rows, differ, strict=True) if other]
    assert margins == sorted(margins, reverse=True)
    assert 0 < sum(differ) < 6


def test_pictures_stay_within_their_bytes(table: pa.Table) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    asked = []

    def pixels(row: int) -> np.ndarray:
        asked.append(row)
        if row == 3:
            raise ImageFailure("missing", "gone")
        return picture

    everything = embed_pictures(table, pixels, 10**6)
    assert asked == [0, 3, 4]  # each image once
    assert set(everything.pictures) == {0, 2}
    assert everything.left_out == {"missing": 1}
    assert [bool(uri) for uri in everything.thumbnails] == [True, True, True, False, True, True]
    sizes = len(everything.pictures[0]) + sum(map(len, everything.thumbnails[:2]))
    few = embed_pictures(table, pixels, sizes)
    assert sum(map(len, few.thumbnails)) + sum(map(len, few.pictures.values())) <= sizes
    assert few.left_out == {"missing": 1, "no room": 1}


@pytest.mark.parametrize("box", [(0, 0, 40, 30), (39.5, 29.5, 40, 30), (0, 0, 1, 1), (10, 5, 12, 30)])
def test_thumbnails_of_any_box(box: tuple[float, ...]) -> None:
    image = np.zeros((30, 40, 3), np.uint8)
    small = Image.open(io.BytesIO(thumbnail(image, np.array(box, np.float32))))
    assert 0 < max(small.size) <= THUMBNAIL


def test_what_the_script_unpacks() -> None:
    vectors = np.array([[0.6, -0.8], [1, 0]], np.float32)
    found = packed(vectors)
    values = np.frombuffer(base64.b64decode(found["data"]), np.int8).reshape(2, found["width"])
    np.testing.assert_allclose(values / 127, vectors, atol=0.005)
    attention = packed_attention(np.array([[[0, 0.1], [0.2, 0.4]]], np.float32))
    assert list(base64.b64decode(attention["layers"][0])) == [0, 64, 128, 255]
