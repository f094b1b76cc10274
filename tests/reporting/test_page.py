"""Reports: one self-contained, well-formed, escaped, accessible HTML file."""

import base64
import io
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from regionspot_cache.errors import InputError
from regionspot_cache.reporting.curve import COLOURS, STRETCHES, Curve, stretches
from regionspot_cache.reporting.drawing import Panel
from regionspot_cache.reporting.page import (
    MISSING,
    KeyValues,
    Picture,
    ReportSection,
    Table,
    Text,
    data_uri,
    format_cell,
    render_report,
    write_report,
)

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Elements and text of a page; fails when a tag is closed that is not open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def tags_without_drawings(html: str) -> list[str]:
    found = Page(re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)).elements
    return [tag for tag, _ in found if tag != "p"]  # blank lines of a text make paragraphs


@cache
def plain_tags() -> list[str]:
    """Those of a page whose texts are plain."""
    return tags_without_drawings(render_report("t", "s", one_of_each("x")))


def panel_of(image: np.ndarray, text: str = "some text") -> Panel:
    return Panel(caption=text, alt=text + ".", image=image, draw=lambda axes: "")


RED = np.full((20, 30, 3), (255, 0, 0), np.uint8)


def one_of_each(text: str = "some text") -> list[ReportSection]:
    return [
        Text(title=text, body=f"{text}\n\n{text}"),
        Table(caption=text, columns=[text, "AP"], rows=[[text, 56.55], ["none", None]], note=text),
        Curve(title=text, xs=[0, 1, 2], series={text: [3, None, 1]}, x_label=text, y_label=text),
        Picture(caption=text, panels=[panel_of(RED, text)]),
        KeyValues(title=text, items={text: text, "images": 19809}),
    ]


class TestPage:
    def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(self) -> None:
        html = render_report("Title", "subtitle", one_of_each())
        page = Page(html)
        assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
        sources = [str(attrs["src"]) for _, attrs in page.elements if "src" in attrs]
        assert sources
        assert all(source.startswith("data:image/") for source in sources)
        links = [str(value) for _, attrs in page.elements for key, value in attrs.items() if "href" in key]
        links += re.findall(r"url\((.*?)\)", html)
        assert all(link.startswith("#") for link in links)
        assert "@import" not in html
        assert "default-src 'none'" in html

    @settings(deadline=None, max_examples=20)
    @given(text=st.text(st.characters(exclude_categories=()), max_size=30))
    def test_any_text_is_escaped(self, text: str) -> None:
        hostile = f"</title></style></svg><script>alert(1)</script><img src=x onerror='a'>\"&{text}"
        html = render_report(hostile, hostile, one_of_each(hostile))
        page = Page(html)
        assert {"script", "a"}.isdisjoint(tag for tag, _ in page.elements)
        assert tags_without_drawings(html) == plain_tags()
        assert not any(k.startswith("on") for _, attrs in page.elements for k in attrs)
        html.encode("utf-8")
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", html.replace("\r", "\x00"))

    def test_light_dark_and_phones(self) -> None:
        html = render_report("t", "s", one_of_each())
        assert "prefers-color-scheme: dark" in html
        assert "max-width: 40rem" in html
        assert 'name="viewport"' in html
        assert Page(html).all("html") == [{"lang": "en"}]

    def test_order_is_kept(self) -> None:
        page = Page(render_report("t", "s", [Text(title=name) for name in ("one", "two", "three")]))
        assert page.text.index("one") < page.text.index("two") < page.text.index("three")


class TestTable:
    def test_rows_and_columns_are_named(self) -> None:
        page = Page(render_report("t", "s", [one_of_each()[1]]))
        scopes = [attrs["scope"] for attrs in page.all("th")]
        assert scopes == ["col", "col", "row", "row"]
        assert len(page.all("caption")) == 1

    def test_numbers_are_aligned_and_texts_are_not(self) -> None:
        table = Table(caption="c", columns=["name", "AP", "mixed"], rows=[["a", 1.0, "x"], ["b", None, 2]])
        cells = Page(render_report("t", "s", [table])).all("td")
        assert [attrs.get("class") for attrs in cells] == ["number", None, "number", None]

    def test_a_short_row_is_refused(self) -> None:
        with pytest.raises(InputError, match="row 1 of table 'c' has 1 cells"):
            render_report("t", "s", [Table(caption="c", columns=["a", "b"], rows=[["1", "2"], ["1"]])])

    @pytest.mark.parametrize(
        ("cell", "decimals", "text"),
        [
            (56.55, 1, "56.5"),
            (1234567, 1, "1,234,567"),
            (np.int64(1000), 1, "1,000"),
            (np.float32(0.125), 3, "0.125"),
            (1234.5, 2, "1,234.50"),
            (None, 1, MISSING),
            (float("nan"), 1, MISSING),
            ("", 1, MISSING),
            ("O365", 1, "O365"),
            (True, 1, "yes"),
        ],
    )
    def test_cells(self, cell: str | float | None, decimals: int, text: str) -> None:
        assert format_cell(cell, decimals) == text


class TestPicture:
    def test_the_picture_comes_back(self) -> None:
        head, data = data_uri(panel_of(RED)).split(",", 1)
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as back:
            assert back.size == (640, 427)
            assert np.abs(np.asarray(back).astype(int) - (255, 0, 0)).max() < 3

    def test_every_panel_has_its_caption_and_says_what_it_shows(self) -> None:
        picture = Picture("what", [panel_of(RED, "one"), panel_of(RED, "two")])
        page = Page(render_report("t", "s", [picture]))
        assert [image["alt"] for image in page.all("img")] == ["one.", "two."]
        assert page.text.split()[-3:] == ["what", "one", "two"]


class TestCurve:
    def test_a_short_run_is_drawn_as_it_is(self) -> None:
        x, low, mean, high = stretches(range(5), [1, 2, None, float("inf"), 3])
        np.testing.assert_array_equal(x, np.arange(5))
        for values in (low, mean, high):
            np.testing.assert_array_equal(values, [1, 2, np.nan, np.nan, 3])

    def test_a_long_run_keeps_its_extremes_and_means(self) -> None:
        ys = np.random.default_rng(0).normal(size=100_000)
        ys[:5000] = np.nan
        x, low, mean, high = stretches(np.arange(100_000.0), ys)
        assert len(x) == STRETCHES
        assert (np.diff(x) > 0).all()
        assert (np.nanmin(low), np.nanmax(high)) == (np.nanmin(ys), np.nanmax(ys))
        np.testing.assert_allclose(mean[10:], np.nanmean(ys.reshape(STRETCHES, -1)[10:], axis=1))
        assert np.isnan(mean[:10]).all()

    @pytest.mark.parametrize("ys", [[], [None, None], [5.0, 5.0], [0.0, 0.0], [1e-30, 2e-30], [-1e30, 1e30]])
    def test_odd_values_still_make_a_chart(self, ys: list[float | None]) -> None:
        svg = Curve("t", range(len(ys)), {"a": ys}, "x", "y").svg()
        assert "nan" not in svg.lower()
        assert svg.endswith("</svg>\n")
        assert Curve("t", [], {}, "x", "y").svg()

    def test_it_has_the_colours_of_the_page_and_no_names_that_others_have(self) -> None:
        series = {name: [1, 2] for name in "abcdef"}
        html = render_report("t", "s", [Curve(title, [0, 1], series, "x", "y") for title in ("one", "two")])
        for number in range(len(COLOURS)):
            assert html.count(f"--s{number}:") == 2  # light and dark
            assert f"stroke: var(--s{number})" in html
        assert "currentColor" in html
        assert not re.search("#0102|#000000", html)
        names = [name for _, attributes in Page(html).elements if (name := attributes.get("id"))]
        assert len(names) == len(set(names))

    def test_any_script_is_left_to_the_fonts_of_the_reader(self) -> None:
        svg = Curve("t", [1, 2], {"犬 $x^2$ <b>\x00": [1, 2]}, "قطة", "y").svg()
        assert "犬 $x^2$ &lt;b&gt;\N{REPLACEMENT CHARACTER}" in svg
        assert "قطة" in svg

    def test_the_numbers_are_there_in_words(self) -> None:
        curve = Curve("Loss", [10, 20, 30], {"train": [3, 1, 2], "val": [None] * 3}, "step", "loss")
        words = "Loss. train: 3 at step 10, lowest 1, highest 3, 2 at step 30. val: no values."
        assert curve.in_words() == words

    def test_a_short_series_is_refused(self) -> None:
        with pytest.raises(InputError, match="series 'a' of 'c' has 1 values"):
            Curve("c", [1, 2], {"a": [1]}, "x", "y")

    def test_long_runs_stay_small(self) -> None:
        ys = np.random.default_rng(0).random(450_000).tolist()
        html = render_report("t", "s", [Curve("loss", range(450_000), {"loss": ys}, "step", "loss")])
        assert len(html) < 100_000
        assert "means over 2250 points" in html


class TestWrite:
    def test_the_file_is_the_rendered_page(self, tmp_path: Path) -> None:
        path = tmp_path / "report.html"
        write_report(path, "t", "s", one_of_each())
        assert path.read_text(encoding="utf-8") == render_report("t", "s", one_of_each())
        assert list(tmp_path.iterdir()) == [path]

    def test_a_failure_leaves_the_old_report(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "report.html"
        path.write_text("old")

        def full_disk(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.replace", full_disk)
        with pytest.raises(OSError, match="No space"):
            write_report(path, "t", "s", one_of_each())
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]
