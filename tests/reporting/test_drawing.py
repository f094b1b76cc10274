"""Pictures: legible at any size, labels on the image and apart, verdicts not by colour alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from regionspot_cache.errors import InputError
from regionspot_cache.reporting.drawing import (
    DPI,
    MIN_BOX,
    MIN_SIDE,
    PALETTE,
    SIDE,
    VERDICTS,
    Panel,
    attention,
    comparison,
    regions,
    sheet,
)
from regionspot_cache.reporting.lettering import UNKNOWN, legible, shortened, visible
from regionspot_cache.reporting.scene import Names, Scene

GREY = 128
BOXES = ((20, 60, 140, 180), (220, 60, 380, 180))


def boxes_of(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def scene_of(
    size: tuple[int, int] = (400, 200),
    boxes: Any = BOXES,
    named: dict[str, list[str]] | None = None,
    **known: Any,
) -> Scene:
    """A grey image (width, height) with boxes that methods name, the first box surest."""
    boxes = boxes_of(*boxes)
    scores = np.linspace(0.9, 0.1, len(boxes), dtype=np.float32)
    named = {"ours": ["cat"] * len(boxes)} if named is None else named
    return Scene(
        title="Image 1",
        image=np.full((size[1], size[0], 3), GREY, np.uint8),
        boxes=boxes,
        named={method: Names(names, scores) for method, names in named.items()},
        **known,
    )


def ground(panel: Panel) -> Any:
    """Axes with the image of a panel, a pixel of the image one pixel large."""
    height, width = panel.image.shape[:2]
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(panel.image, extent=(0, width, height, 0), aspect="auto")
    axes.set(xlim=(0, width), ylim=(height, 0))
    return axes


def drawn(panel: Panel) -> Any:
    """The axes of a panel."""
    axes = ground(panel)
    panel.draw(axes)
    return axes


def tags(panel: Panel) -> list[str]:
    return [text.get_text() for text in drawn(panel).texts]


class TestTags:
    @settings(max_examples=40)
    @given(data=st.data())
    def test_tags_stay_on_the_image_and_apart(self, data: st.DataObject) -> None:
        corner = st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
        rows = data.draw(st.lists(corner, max_size=25))
        names = data.draw(st.lists(st.text(max_size=40), min_size=len(rows), max_size=len(rows)))
        boxes = [(400 * min(a, c), 200 * min(b, d), 400 * max(a, c), 200 * max(b, d)) for a, b, c, d in rows]
        axes = drawn(regions(scene_of(boxes=boxes, named={"ours": names})))
        areas = [text.get_window_extent() for text in axes.texts]
        for i, area in enumerate(areas):
            assert axes.bbox.contains(*area.min)
            assert axes.bbox.contains(*area.max)
            assert not area.count_overlaps(areas[i + 1 :])

    def test_a_tag_alone_stands_just_above_its_box(self) -> None:
        axes = drawn(regions(scene_of(boxes=[(100, 100, 180, 160)])))
        (area,) = [text.get_window_extent() for text in axes.texts]
        assert area.x0 == pytest.approx(100, abs=2)
        assert axes.bbox.height - area.y0 == pytest.approx(100, abs=6)

    def test_the_surest_choose_first_and_the_others_have_their_numbers(self) -> None:
        boxes = [(90 + 2 * i, 30, 300 + 10 * i, 190) for i in range(9)]
        panel = regions(scene_of(boxes=boxes, named={"ours": ["a name that takes room"] * 9}))
        found = tags(panel)
        assert found[0] == "1 a name that takes room 0.90"
        numbers = [text for text in found if text.isdigit()]
        assert numbers
        assert numbers == sorted(numbers)
        whole = len(found) - len(numbers)
        assert panel.draw(ground(panel)) == f" (no room for {9 - whole} of 9 names)"

    def test_a_long_name_is_cut_but_keeps_its_score(self) -> None:
        (tag,) = tags(regions(scene_of((900, 200), BOXES[:1], {"ours": ["name " * 60]})))
        assert tag.startswith("1 name name")
        assert tag.endswith("… 0.90")

    @pytest.mark.parametrize("colour", [*PALETTE, *VERDICTS.values()])
    def test_letters_have_wcag_contrast(self, colour: str) -> None:
        channels = np.array(to_rgb(colour))
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        assert (linear @ [0.2126, 0.7152, 0.0722] + 0.05) / 0.05 >= 4.5


class TestLettering:
    def test_what_cannot_be_seen_is_made_visible(self) -> None:
        assert visible("a\x00b\x1b[1m\ud800\u202ec\n") == f"a{UNKNOWN}b{UNKNOWN}[1m{UNKNOWN}{UNKNOWN}c\n"
        assert visible("犬 قطة naïve") == "犬 قطة naïve"

    @given(st.text(max_size=80), st.integers(1, 90))
    def test_shortened_text_is_one_line_that_fits(self, text: str, length: int) -> None:
        short = shortened(text, length)
        assert len(short) <= length
        assert len(short.splitlines()) <= 1

    def test_any_script_is_drawn_without_warnings(self) -> None:
        names = ["犬", "قطة", "mot d'été", "$x^2$", "\U0001f600", "\U0010fffd"]
        sheet([regions(scene_of(boxes=BOXES[:1] * 6, named={"ours": names}))])
        assert legible("\U0010fffd cat") == (f"{UNKNOWN} cat", ["DejaVu Sans"])


class TestRegions:
    @pytest.mark.parametrize(
        "size", [(1, 1), (100, 75), (100, 100), (640, 480), (6000, 4000), (3000, 60), (60, 3000)]
    )
    def test_pictures_suit_a_screen(self, size: tuple[int, int]) -> None:
        width, height = size
        boxes = [(0, 0, width, height), (width / 4, height / 4, width / 2, height / 2)]
        masks = np.zeros((2, height, width), bool)
        masks[0] = True
        picture = sheet([regions(scene_of(size, boxes, masks=masks))], captions=False)
        assert max(picture.size) == SIDE
        assert min(picture.size) >= MIN_SIDE
        assert sheet([regions(scene_of(size, boxes))], side=1024).width >= MIN_SIDE

    def test_outlines_lie_on_the_scaled_box(self) -> None:
        panel = regions(scene_of((1280, 640), [(400, 300, 1200, 600)], {"ours": [""]}))
        picture = np.asarray(sheet([panel], captions=False)).astype(int)
        row = np.abs(picture[250] - 255 * np.array(to_rgb(PALETTE[0]))).max(axis=-1)
        columns = np.flatnonzero(row < 30)
        assert columns.min() == pytest.approx(200, abs=1)
        assert columns.max() == pytest.approx(600, abs=1)
        assert (picture[20] == GREY).all()

    def test_a_box_too_small_to_see_is_drawn_larger(self) -> None:
        axes = drawn(regions(scene_of(boxes=[(300, 100, 301, 101)])))
        for line in axes.lines:
            assert np.ptp(line.get_xdata()) == pytest.approx(MIN_BOX, abs=0.1)
            assert np.mean(line.get_ydata()[:-1]) == pytest.approx(100.4, abs=3)

    def test_one_colour_for_each_name_in_all_panels(self) -> None:
        scene = scene_of(named={"ours": ["a", "b"], "other": ["b", "c"]})
        colours = {
            (text.get_text().split()[1], text.get_bbox_patch().get_facecolor())
            for panel in comparison(scene)
            for text in drawn(panel).texts
        }
        assert len(colours) == 3

    def test_masks_are_tinted_the_rim_is_solid_and_small_ones_lie_above(self) -> None:
        masks = np.zeros((2, 640, 640), bool)
        masks[0, 300:340, 300:340] = True
        masks[1, 100:600, 100:600] = True
        named = {"ours": ["a", "b"]}
        panel = regions(scene_of((640, 640), [(0, 0, 640, 640)] * 2, named, masks=masks))
        pixels = np.asarray(sheet([panel], captions=False)).astype(float)
        first, second = (255 * np.array(to_rgb(colour)) for colour in PALETTE[:2])
        assert np.abs(pixels[320, 320] - (0.6 * GREY + 0.4 * first)).max() <= 2
        assert np.abs(pixels[200, 200] - (0.6 * GREY + 0.4 * second)).max() <= 2
        assert np.abs(pixels[320, 100] - second).max() <= 2
        assert (pixels[620, 50] == GREY).all()

    def test_no_boxes_and_the_same_input_gives_the_same_picture(self) -> None:
        assert (np.asarray(sheet([regions(scene_of(boxes=()))], captions=False)) == GREY).all()
        scene = scene_of(boxes=[(i, i, i + 50, i + 40) for i in range(0, 150, 10)])
        assert sheet([regions(scene)]).tobytes() == sheet([regions(scene)]).tobytes()
        assert (scene.image == GREY).all()

    @pytest.mark.parametrize(
        ("wrong", "match"),
        [
            ({"boxes": [(0, 0, np.nan, 1)]}, "boxes"),
            ({"named": {}}, "names"),
            ({"named": {"ours": ["cat"]}}, "names"),
            ({"truth": ["cat"]}, "truth"),
            ({"masks": np.zeros((2, 100, 80), bool)}, "masks"),
            ({"annotated": (boxes_of((0, 0, 9, 9)), [])}, "annotated"),
            ({"attention": np.zeros((3, 1, 4, 4), np.float32)}, "attention"),
            ({"attention": np.zeros((3, 2, 4), np.float32)}, "attention"),
            ({"attention": np.full((3, 2, 4, 4), np.nan, np.float32)}, "attention"),
        ],
    )
    def test_parts_that_do_not_belong_together_are_refused(self, wrong: dict[str, Any], match: str) -> None:
        with pytest.raises(InputError, match=match):
            scene_of(**wrong)


class TestComparison:
    def test_verdicts_have_marks(self) -> None:
        truth, ours = comparison(scene_of(named={"ours": ["cat", "dog"]}, truth=["cat", "cow"]))
        assert tags(truth) == ["1 cat", "2 cow"]
        assert tags(ours) == ["1 ✓ cat 0.90", "2 ✗ dog 0.10"]
        assert ours.caption == "ours: 1 of 2 right"
        assert (truth.alt, ours.alt) == ("truly cat, cow", "ours says cat, dog")

    def test_case_and_underscores_do_not_matter(self) -> None:
        scene = scene_of(named={"ours": ["Traffic light", "dog "]}, truth=["traffic_light", "Dog"])
        assert [scene.right("ours", i) for i in range(2)] == [True, True]

    def test_wrong_boxes_are_dashed(self) -> None:
        _, ours = comparison(scene_of(named={"ours": ["cat", "dog"]}, truth=["cat", "cow"]))
        styles = {line.get_color(): line.get_linestyle() for line in drawn(ours).lines}
        assert styles[VERDICTS[True]] == "-"
        assert styles[VERDICTS[False]] == "--"

    def test_a_box_without_truth_is_not_judged(self) -> None:
        truth, ours = comparison(scene_of(named={"ours": ["cat", "dog"]}, truth=["cat", None]))
        assert tags(truth) == ["1 cat", "2 not annotated"]
        assert tags(ours) == ["1 ✓ cat 0.90", "2 dog 0.10"]
        assert ours.caption == "ours: 1 of 1 right"

    def test_proposals_stand_beside_the_annotated_boxes(self) -> None:
        annotated = boxes_of((10, 10, 90, 90)), ["cow"]
        truth, _ = comparison(scene_of(truth=[None, "b"], annotated=annotated))
        assert tags(truth) == ["cow"]

    def test_a_sheet_holds_every_panel_under_its_caption(self) -> None:
        panels = comparison(scene_of((640, 400), named={"a": ["x", "y"], "b": ["x", "y"], "c": ["x", "y"]}))
        picture = sheet(panels, columns=2)
        assert picture.width > 2 * SIDE
        assert picture.height > 2 * 400


class TestAttention:
    @pytest.mark.parametrize("cell", [(0, 0), (3, 6), (6, 0)])
    def test_the_brightest_place_is_the_cell_with_most_attention(self, cell: tuple[int, int]) -> None:
        grid = np.zeros((1, 2, 7, 7), np.float32)
        grid[0, 0][cell] = 1
        (panel,) = attention(scene_of((630, 315), attention=grid), 0)
        heat = np.asarray(sheet([panel], side=630, captions=False).convert("L")).astype(float)
        heat = heat.reshape(7, 45, 7, 90).mean(axis=(1, 3))
        assert np.unravel_index(heat.argmax(), heat.shape) == cell
        x, y = (100 * (place + 0.5) / 7 for place in cell[::-1])
        assert f"layer 1 most at {x:.0f} % from the left, {y:.0f} % from the top" in panel.alt

    def test_the_scale_of_attention_does_not_matter(self) -> None:
        grid = np.random.default_rng(0).random((1, 2, 5, 5)).astype(np.float32)
        pictures = [sheet(attention(scene_of(attention=grid * scale), 0)) for scale in (1, 4)]
        assert pictures[0].tobytes() == pictures[1].tobytes()

    def test_a_constant_map_is_cold(self) -> None:
        panels = attention(scene_of(attention=np.full((1, 2, 4, 4), 0.25, np.float32)), 0)
        assert np.asarray(sheet(panels, captions=False))[20, 20].max() < GREY

    @pytest.mark.parametrize("layers", [1, 3, 6])
    def test_one_panel_a_layer_with_the_box_in_white(self, layers: int) -> None:
        grid = np.full((layers, 2, 2, 2), 0.1, np.float32)
        grid[0, 0, 0, 0] = 0.7
        panels = attention(scene_of(attention=grid), 0)
        assert len(panels) == layers
        assert panels[0].caption == "1 cat 0.90, layer 1: peak 2.8 x mean"
        outlines = [line for line in drawn(panels[0]).lines if line.get_color() == "#ffffff"]
        assert [Bbox(line.get_path().vertices[[0, 2]]).extents.tolist() for line in outlines] == [
            list(BOXES[0])
        ]
