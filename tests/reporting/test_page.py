"""Reports: one self-contained, well-formed, escaped, accessible HTML file."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from regionspot_cache.errors import InputError
from regionspot_cache.reporting import curve
from regionspot_cache.reporting.curve import (
    MAX_POINTS,
    curve_svg,
    format_tick,
    smooth,
    smoothing_window,
    thin,
    ticks,
)
from regionspot_cache.reporting.page import (
    MISSING,
    Curve,
    Figure,
    KeyValues,
    ReportSection,
    Table,
    Text,
    data_uri,
    format_cell,
    render_report,
    write_report,
)

VOID = {"meta", "img", "line", "path"}


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


def one_of_each(text: str = "some text") -> list[ReportSection]:
    return [
        Text(title=text, body=f"{text}\n\n{text}"),
        Table(caption=text, columns=[text, "AP"], rows=[[text, 56.55], ["none", None]], note=text),
        Curve(title=text, xs=[0, 1, 2], series={text: [3, None, 1]}, x_label=text, y_label=text),
        Figure(image=Image.new("RGB", (30, 20), "red"), caption=text, alt=text + "."),
        KeyValues(title=text, items={text: text, "images": 19809}),
    ]


class TestPage:
    def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(self) -> None:
        html = render_report("Title", "subtitle", one_of_each())
        page = Page(html)
        assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
        addresses = [v for _, attrs in page.elements for k, v in attrs.items() if k in ("src", "href")]
        assert addresses
        assert all(address and address.startswith("data:image/") for address in addresses)
        assert "url(" not in html
        assert "@import" not in html
        assert "default-src 'none'" in html

    @settings(deadline=None, max_examples=50)
    @given(text=st.text(st.characters(exclude_categories=()), max_size=30))
    def test_any_text_is_escaped(self, text: str) -> None:
        hostile = f"</title></style></svg><script>alert(1)</script><img src=x onerror='a'>\"&{text}"
        html = render_report(hostile, hostile, one_of_each(hostile))
        page = Page(html)
        plain = Page(render_report("t", "s", one_of_each("x")))
        names = [tag for tag, _ in page.elements if tag != "p"]  # blank lines part paragraphs
        assert names == [tag for tag, _ in plain.elements if tag != "p"]
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

    def test_neighbouring_figures_share_a_grid(self) -> None:
        figure = one_of_each()[3]
        html = render_report("t", "s", [figure, figure, Text(title="x"), figure])
        assert html.count('<div class="figures">') == 2


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


class TestFigure:
    def test_the_picture_comes_back(self) -> None:
        image = Image.new("RGB", (40, 30), (10, 200, 30))
        head, data = data_uri(image).split(",", 1)
        assert head == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as back:
            assert back.convert("RGB").tobytes() == image.tobytes()

    def test_photographs_are_jpeg(self) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
        assert data_uri(Image.fromarray(noise)).startswith("data:image/jpeg")

    def test_alt_text_is_required(self) -> None:
        with pytest.raises(InputError, match="no alt text"):
            render_report("t", "s", [Figure(image=Image.new("RGB", (9, 9)), caption="c", alt=" ")])

    def test_alt_and_size_are_written(self) -> None:
        (image,) = Page(render_report("t", "s", [one_of_each()[3]])).all("img")
        assert (image["alt"], image["width"], image["height"]) == ("some text.", "30", "20")


class TestCurve:
    @given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 12))
    def test_ticks_span_the_range_at_round_steps(self, low: float, span: float, count: int) -> None:
        high = low + span
        assume(span > 1e-4 * max(abs(low), abs(high)))
        found = ticks(low, high, count)
        step = found[1] - found[0]
        assert found[0] <= low + 1e-6 * step
        assert found[-1] >= high - 1e-6 * step
        assert len(found) <= count + 3
        assert f"{step:.0e}"[0] in "125"
        assert len({format_tick(tick) for tick in found}) == len(found)

    @pytest.mark.parametrize(
        ("value", "text"), [(450_000, "450k"), (2e6, "2M"), (0.05, "0.05"), (0, "0"), (-1500, "-1.5k")]
    )
    def test_tick_texts(self, value: float, text: str) -> None:
        assert format_tick(value) == text

    def test_smoothing_keeps_constants_gaps_and_the_mean_of_a_line(self) -> None:
        line = np.arange(400.0)
        smoothed, window = smooth(line), smoothing_window(400)
        assert window % 2 == 1
        assert window > 1
        np.testing.assert_allclose(smoothed[window:-window], line[window:-window])
        gaps = np.full(400, 2.0)
        gaps[100:110] = np.nan
        np.testing.assert_allclose(smooth(gaps), gaps)

    def test_thinning_keeps_the_extremes(self) -> None:
        ys = np.random.default_rng(0).normal(size=100_000)
        ys[:5000] = np.nan
        xs, kept = thin(np.arange(100_000.0), ys)
        assert len(xs) <= MAX_POINTS
        assert np.nanmax(kept) == np.nanmax(ys)
        assert np.nanmin(kept) == np.nanmin(ys)
        assert (np.diff(xs) > 0).all()
        assert np.isnan(kept[0])

    def test_points_lie_where_the_axes_say(self) -> None:
        svg = curve_svg("t", [0, 10], {"a": [0, 4]}, "x", "y", width=400, height=300)
        path = re.search(r'class="line s0" d="M([\d.]+) ([\d.]+)h0L([\d.]+) ([\d.]+)"', svg)
        axis = re.search(r'class="axis" d="M(\d+) (\d+)V(\d+)H(\d+)"', svg)
        assert path
        assert axis
        left, top, floor, right = (float(value) for value in axis.groups())
        assert [float(value) for value in path.groups()] == [left, floor, right, top]

    def test_gaps_break_the_line(self) -> None:
        svg = curve_svg("t", range(5), {"a": [1, 2, None, float("inf"), 3]}, "x", "y", width=400, height=300)
        (path,) = re.findall(r'class="line s0" d="([^"]*)"', svg)
        assert path.count("M") == 2
        assert "nan" not in svg

    @pytest.mark.parametrize("ys", [[], [None, None], [5.0, 5.0], [0.0, 0.0], [1e-30, 2e-30], [-1e30, 1e30]])
    def test_odd_values_still_make_a_chart(self, ys: list[float | None]) -> None:
        svg = curve_svg("t", range(len(ys)), {"a": ys}, "x", "y", width=400, height=300)
        assert "nan" not in svg.lower()
        assert svg.endswith("</svg>")

    def test_the_numbers_are_there_in_words(self) -> None:
        svg = curve_svg("Loss", [10, 20, 30], {"train": [3, 1, 2]}, "step", "loss", width=400, height=300)
        assert "train: 3 at step 10, lowest 1, highest 3, 2 at step 30." in svg

    def test_a_short_series_is_refused(self) -> None:
        curve = Curve(title="c", xs=[1, 2], series={"a": [1]}, x_label="x", y_label="y")
        with pytest.raises(InputError, match="series 'a' of 'c' has 1 values"):
            render_report("t", "s", [curve])

    def test_every_style_exists(self) -> None:
        html = render_report("t", "s", [])
        assert all(f".s{i} " in html for i in range(curve.NUM_STYLES))

    def test_long_runs_stay_small(self) -> None:
        ys = np.random.default_rng(0).random(450_000).tolist()
        curve = Curve(title="loss", xs=range(450_000), series={"loss": ys}, x_label="step", y_label="loss")
        assert len(render_report("t", "s", [curve])) < 100_000


class TestWrite:
    def test_the_file_is_the_rendered_page(self, tmp_path: Path) -> None:
        path = tmp_path / "report.html"
        write_report(path, "t", "s", one_of_each())
        assert path.read_text(encoding="utf-8") == render_report("t", "s", one_of_each())
        assert list(tmp_path.iterdir()) == [path]

    def test_a_failure_leaves_the_old_report(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "report.html"
        path.write_text("old")

        def full_disk(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full_disk)
        with pytest.raises(OSError, match="No space"):
            write_report(path, "t", "s", one_of_each())
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]
