"""Pictures: legible at any size, labels on the image and apart, verdicts not by colour alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from regionspot_cache.errors import InputError
from regionspot_cache.reporting import drawing
from regionspot_cache.reporting.canvas import (
    MIN_CANVAS,
    MIN_SIDE,
    make_canvas,
    outline,
    tint_masks,
)
from regionspot_cache.reporting.drawing import (
    PALETTE,
    RIGHT_COLOUR,
    TRUTH_COLOUR,
    WRONG_COLOUR,
    compare_predictions,
    draw_regions,
)
from regionspot_cache.reporting.lettering import (
    BLACK,
    WHITE,
    Tag,
    TagStyle,
    fit_text,
    load_font,
    place_tags,
    relative_luminance,
    text_colour,
)

GREY = 128


def flat(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def boxes_of(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def has_colour(picture: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.asarray(picture) == np.array(colour, np.uint8)).all(axis=-1).any())


def contrast(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    low, high = sorted((relative_luminance(a), relative_luminance(b)))
    return (high + 0.05) / (low + 0.05)


class TestPlaceTags:
    @settings(deadline=None, max_examples=60)
    @given(data=st.data())
    def test_tags_stay_on_the_canvas_and_apart(self, data: st.DataObject) -> None:
        width, height = data.draw(st.tuples(st.integers(20, 500), st.integers(20, 400)))
        corner = st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
        rows = data.draw(st.lists(corner, max_size=25))
        texts = data.draw(st.lists(st.text(max_size=40), min_size=len(rows), max_size=len(rows)))
        tags = [
            Tag(
                text=text,
                box=(
                    min(a, c) * width,
                    min(b, d) * height,
                    max(a, c) * width,
                    max(b, d) * height,
                ),
                colour=PALETTE[0],
                mark="wrong" if i % 2 else None,
            )
            for i, (text, (a, b, c, d)) in enumerate(zip(texts, rows, strict=True))
        ]
        placed = place_tags(tags, (width, height), TagStyle(font_size=13))
        areas = np.array([one.area for one in placed]).reshape(-1, 4)
        assert (areas[:, :2] >= 0).all()
        assert (areas[:, 2:] <= [width, height]).all()
        for i, a in enumerate(areas):
            for b in areas[i + 1 :]:
                apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
                assert apart, (a, b)

    def test_a_tag_alone_stands_just_above_its_box(self) -> None:
        style = TagStyle(font_size=14)
        tag = Tag(text="cat", box=(100, 100, 180, 160), colour=PALETTE[0])
        (placed,) = place_tags([tag], (400, 300), style)
        assert placed.area[0] == 100
        assert placed.area[3] == 100

    def test_the_text_fits_its_backing(self) -> None:
        style = TagStyle(font_size=14)
        tag = Tag(text="wide name", suffix=" 0.50", box=(10, 50, 60, 90), colour=PALETTE[0], mark="right")
        (placed,) = place_tags([tag], (400, 300), style)
        needed = load_font(14).getlength(placed.text) + style.mark_side + 3 * style.pad
        assert placed.area[2] - placed.area[0] >= needed

    def test_high_priority_chooses_first(self) -> None:
        style = TagStyle(font_size=14)
        tags = [
            Tag(text="cat", box=(50, 50, 120, 100), colour=PALETTE[0], priority=priority)
            for priority in (0.1, 0.9)
        ]
        placed = place_tags(tags, (300, 300), style)
        assert [one.tag.priority for one in placed] == [0.9, 0.1]
        assert placed[0].area[3] == 50

    def test_tags_without_room_are_left_out(self) -> None:
        tags = [Tag(text="same", box=(0, 0, 60, 40), colour=PALETTE[0]) for _ in range(20)]
        placed = place_tags(tags, (60, 40), TagStyle(font_size=13))
        assert 1 <= len(placed) < 20

    def test_a_long_name_is_cut_but_keeps_its_score(self) -> None:
        tag = Tag(text="name " * 60, suffix=" 0.87", box=(0, 0, 9, 9), colour=PALETTE[0])
        (placed,) = place_tags([tag], (300, 200), TagStyle(font_size=13))
        assert placed.text.endswith("... 0.87")
        assert placed.area[2] <= 300


class TestText:
    @given(text=st.text(max_size=80), width=st.floats(0, 300))
    def test_cut_text_fits(self, text: str, width: float) -> None:
        font = load_font(13)
        cut = fit_text(text, font, width)
        assert font.getlength(cut) <= max(width, 0)
        assert "\n" not in cut

    @pytest.mark.parametrize("colour", [*PALETTE, RIGHT_COLOUR, WRONG_COLOUR, TRUTH_COLOUR])
    def test_labels_have_wcag_contrast(self, colour: tuple[int, int, int]) -> None:
        ink = text_colour(colour)
        assert contrast(ink, colour) >= 4.5
        assert contrast(ink, colour) == max(contrast(BLACK, colour), contrast(WHITE, colour))


class TestDrawRegions:
    @pytest.mark.parametrize(
        "size", [(100, 75), (100, 100), (640, 480), (6000, 4000), (3000, 60), (60, 3000)]
    )
    def test_pictures_suit_a_screen(self, size: tuple[int, int]) -> None:
        width, height = size
        boxes = boxes_of((0, 0, width, height), (width / 4, height / 4, width / 2, height / 2))
        picture = draw_regions(flat(*size), boxes, ["cat", "dog"], np.array([0.5, 0.9], np.float32))
        assert MIN_SIDE <= max(picture.size) <= 1024
        assert min(picture.size) >= MIN_CANVAS
        assert has_colour(picture, PALETTE[0])
        assert has_colour(picture, PALETTE[1])

    def test_outlines_lie_on_the_scaled_box(self) -> None:
        picture = np.asarray(draw_regions(flat(2048, 1024), boxes_of((400, 300, 1200, 900)), [""]))
        column = np.flatnonzero((picture == np.array(PALETTE[0])).all(-1)[300])
        assert {column.min(), column.max()} == {200, 600}
        assert (picture[50] == GREY).all()

    def test_one_colour_for_each_name(self) -> None:
        boxes = boxes_of((10, 50, 90, 190), (210, 50, 290, 190), (310, 50, 390, 190))
        picture = np.asarray(draw_regions(flat(400, 200), boxes, ["cat", "dog", "cat"], max_side=400))
        assert [tuple(picture[100, x]) for x in (10, 210, 310)] == [PALETTE[0], PALETTE[1], PALETTE[0]]

    def test_crowds_say_how_many_labels_are_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        notes: list[str] = []
        original = drawing.add_footer
        monkeypatch.setattr(
            drawing, "add_footer", lambda p, text, s: (notes.append(text), original(p, text, s))[1]
        )
        boxes = np.tile(boxes_of((10, 10, 90, 90)), (300, 1))
        picture = draw_regions(flat(100, 100), boxes, ["label"] * 300)
        assert len(notes) == 1
        assert 0 < int(notes[0].split()[1]) < 300
        assert picture.height > picture.width

    def test_no_boxes(self) -> None:
        picture = draw_regions(flat(900, 500), np.zeros((0, 4), np.float32), [])
        assert (np.asarray(picture) == GREY).all()

    def test_boxes_beyond_the_image_are_clipped(self) -> None:
        picture = draw_regions(flat(900, 900), boxes_of((-1e6, -50, 1e6, 1e9)), ["all"])
        assert picture.size == (900, 900)

    def test_the_input_is_not_changed(self) -> None:
        image = flat(1000, 800)
        draw_regions(image, boxes_of((0, 0, 500, 500)), ["cat"], masks=np.ones((1, 800, 1000), bool))
        assert (image == GREY).all()

    def test_the_same_input_gives_the_same_picture(self) -> None:
        boxes = boxes_of(*[(i, i, i + 200, i + 150) for i in range(0, 300, 10)])
        first, second = (draw_regions(flat(640, 480), boxes, ["a", "b", "c"] * 10) for _ in range(2))
        assert first.tobytes() == second.tobytes()

    @pytest.mark.parametrize(
        ("boxes", "labels", "scores", "match"),
        [
            (np.zeros((2, 4), np.float32), ["one"], None, r"boxes have shape \[2, 4\]"),
            (np.zeros((1, 5), np.float32), ["one"], None, r"\[1, 5\]"),
            (boxes_of((0, 0, np.nan, 1)), ["one"], None, "box 0 is not finite"),
            (boxes_of((0, 0, 1, 1)), ["one"], np.zeros(2, np.float32), "2 scores"),
        ],
    )
    def test_wrong_shapes_are_refused(
        self, boxes: np.ndarray, labels: list[str], scores: np.ndarray | None, match: str
    ) -> None:
        with pytest.raises(InputError, match=match):
            draw_regions(flat(100, 100), boxes, labels, scores)

    @pytest.mark.parametrize("image", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3), np.float32)])
    def test_other_images_are_refused(self, image: np.ndarray) -> None:
        with pytest.raises(InputError, match="image is"):
            draw_regions(image, np.zeros((0, 4), np.float32), [])

    def test_masks_of_another_size_are_refused(self) -> None:
        with pytest.raises(InputError, match="masks are bool"):
            draw_regions(flat(100, 80), boxes_of((0, 0, 9, 9)), ["a"], masks=np.zeros((1, 100, 80), bool))


class TestMasks:
    def test_inside_is_tinted_the_rim_is_solid_the_rest_is_untouched(self) -> None:
        mask = np.zeros((1, 500, 1000), bool)
        mask[0, 100:400, 200:700] = True
        canvas = make_canvas(flat(1000, 500), 1000)
        tint_masks(canvas, mask, [PALETTE[0]])
        pixels = np.asarray(canvas.picture)
        expected = np.round(0.6 * GREY + 0.4 * np.array(PALETTE[0]))
        assert np.abs(pixels[250, 450] - expected).max() <= 1
        assert tuple(pixels[250, 200]) == PALETTE[0]
        assert (pixels[50, 50] == GREY).all()

    def test_a_small_mask_shows_over_a_large_one(self) -> None:
        masks = np.zeros((2, 900, 900), bool)
        masks[0, 400:500, 400:500] = True
        masks[1] = True
        canvas = make_canvas(flat(900, 900), 900)
        tint_masks(canvas, masks, [PALETTE[0], PALETTE[6]])
        pixels = np.asarray(canvas.picture).astype(int)
        assert pixels[450, 450, 0] > pixels[100, 100, 0]


class TestComparePredictions:
    boxes = boxes_of((20, 60, 140, 180), (220, 60, 380, 180))
    scores = np.array([0.9, 0.4], np.float32)

    def tags(self, monkeypatch: pytest.MonkeyPatch, labels: list[str], truth: list[str | None]) -> list[Tag]:
        seen: list[Tag] = []
        original = drawing.place_tags
        monkeypatch.setattr(
            drawing, "place_tags", lambda tags, *rest: (seen.extend(tags), original(tags, *rest))[1]
        )
        compare_predictions(flat(400, 200), self.boxes, {"ours": (labels, self.scores)}, truth)
        return seen

    def test_verdicts_have_marks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tags = self.tags(monkeypatch, ["cat", "dog"], ["cat", "cow"])
        assert [(tag.text, tag.mark) for tag in tags] == [
            ("cat", None),
            ("cow", None),
            ("cat", "right"),
            ("dog", "wrong"),
        ]

    def test_case_and_underscores_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tags = self.tags(monkeypatch, ["Traffic light", "dog "], ["traffic_light", "Dog"])
        assert [tag.mark for tag in tags[2:]] == ["right", "right"]

    @pytest.mark.parametrize(("dashed", "shades"), [(False, 1), (True, 2)])
    def test_wrong_boxes_are_dashed_in_grey_too(self, dashed: bool, shades: int) -> None:
        canvas = make_canvas(flat(900, 600), 900)
        outline(canvas, np.array([100.0, 100, 700, 500]), WRONG_COLOUR, dashed=dashed)
        grey = np.asarray(canvas.picture.convert("L"))
        for side in (grey[100, 100:700], grey[500, 100:700], grey[100:500, 100], grey[100:500, 700]):
            assert len(np.unique(side)) == shades

    def test_another_number_of_labels_is_refused(self) -> None:
        with pytest.raises(InputError, match="1 labels of ours"):
            compare_predictions(flat(400, 200), self.boxes, {"ours": (["cat"], self.scores)}, ["cat", "cow"])

    def test_a_box_without_truth_is_not_judged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tags = self.tags(monkeypatch, ["cat", "dog"], ["cat", None])
        assert [(tag.text, tag.mark) for tag in tags] == [
            ("cat", None),
            ("not annotated", None),
            ("cat", "right"),
            ("dog", None),
        ]
        assert tags[3].colour == TRUTH_COLOUR

    def test_proposals_stand_beside_the_annotated_boxes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[Tag] = []
        original = drawing.place_tags
        monkeypatch.setattr(
            drawing, "place_tags", lambda tags, *rest: (seen.extend(tags), original(tags, *rest))[1]
        )
        annotated = boxes_of((10, 10, 90, 90)), ["cow"]
        compare_predictions(
            flat(400, 200), self.boxes, {"ours": (["a", "b"], self.scores)}, [None, "b"], annotated
        )
        assert [(tag.text, tag.mark) for tag in seen] == [("cow", None), ("a", None), ("b", "right")]

    def test_without_truth_equal_names_have_equal_colours_in_all_panels(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Tag] = []
        original = drawing.place_tags
        monkeypatch.setattr(
            drawing, "place_tags", lambda tags, *rest: (seen.extend(tags), original(tags, *rest))[1]
        )
        predictions = {"ours": (["a", "b"], self.scores), "other": (["b", "c"], self.scores)}
        compare_predictions(flat(400, 200), self.boxes, predictions)
        colours = [(tag.text, tag.colour) for tag in seen]
        assert len(colours) == 4
        assert len(set(colours)) == 3
        assert all(tag.mark is None for tag in seen)

    def test_nothing_to_compare_is_refused(self) -> None:
        with pytest.raises(InputError, match="no predictions"):
            compare_predictions(flat(400, 200), self.boxes, {}, ["cat", "cow"])


class TestOutline:
    def test_a_box_too_small_to_see_is_drawn_larger(self) -> None:
        canvas = make_canvas(flat(900, 600), 900)
        outline(canvas, np.array([300.0, 300, 301, 301]), WHITE)
        white = (np.asarray(canvas.picture) == WHITE).all(axis=-1)
        rows, columns = np.nonzero(white)
        assert np.ptp(rows) >= 9
        assert np.ptp(columns) >= 9
        assert (rows.min() + rows.max()) / 2 == pytest.approx(300.5, abs=1)
        assert not white[300, 300]
