"""Attention over the image: heat where the weights are, the box outlined, sheets at full size."""

import numpy as np
import pytest
from PIL import Image

from regionspot_cache.errors import InputError
from regionspot_cache.reporting import drawing
from regionspot_cache.reporting.canvas import make_canvas, overlay_heat
from regionspot_cache.reporting.drawing import attention_grid, attention_sheet, draw_attention
from regionspot_cache.reporting.lettering import WHITE
from tests.reporting.test_drawing import GREY, boxes_of, flat


class TestAttention:
    @pytest.mark.parametrize("cell", [(0, 0), (3, 6), (6, 0)])
    def test_the_brightest_place_is_the_cell_with_most_attention(self, cell: tuple[int, int]) -> None:
        attention = np.zeros((7, 7), np.float32)
        attention[cell] = 1
        canvas = make_canvas(np.zeros((490, 980, 3), np.uint8), 980)
        overlay_heat(canvas, attention)
        heat = np.asarray(canvas.picture.convert("L")).astype(float).reshape(7, 70, 7, 140).mean(axis=(1, 3))
        assert np.unravel_index(heat.argmax(), heat.shape) == cell

    def test_the_scale_of_attention_does_not_matter(self) -> None:
        attention = np.random.default_rng(0).random((5, 5)).astype(np.float32)
        pictures = [
            draw_attention(flat(200, 100), boxes_of((5, 5, 50, 50))[0], attention * s) for s in (1, 4)
        ]
        assert pictures[0].tobytes() == pictures[1].tobytes()

    def test_a_constant_map_is_cold(self) -> None:
        picture = draw_attention(flat(900, 900), boxes_of((0, 0, 9, 9))[0], np.full((4, 4), 0.25, np.float32))
        assert np.asarray(picture)[450, 450].max() < GREY

    def test_the_box_is_outlined(self) -> None:
        box = boxes_of((100, 100, 300, 300))[0]
        picture = draw_attention(flat(1000, 500), box, np.eye(4, dtype=np.float32))
        assert tuple(np.asarray(picture)[200, 100]) == WHITE

    @pytest.mark.parametrize("layers", [1, 3, 6])
    def test_one_panel_a_layer(self, layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[tuple[int, list[str]]] = []
        original = drawing.make_sheet

        def spy(panels: list[Image.Image], captions: list[str], columns: int, title: str = "") -> Image.Image:
            seen.append((len(panels), captions))
            return original(panels, captions, columns, title)

        monkeypatch.setattr(drawing, "make_sheet", spy)
        maps = np.full((layers, 2, 2), 0.1, np.float32)
        maps[0, 0, 0] = 0.7
        attention_grid(flat(300, 200), boxes_of((0, 0, 50, 50))[0], maps, "cat")
        assert seen[0][0] == layers
        assert seen[0][1][0] == "Layer 1: peak 2.8 x mean"

    @pytest.mark.parametrize("bad", [np.zeros((3, 3, 3)), np.full((3, 3), np.nan), np.zeros((0, 3))])
    def test_bad_maps_are_refused(self, bad: np.ndarray) -> None:
        with pytest.raises(InputError, match="attention of shape"):
            draw_attention(flat(100, 100), boxes_of((0, 0, 9, 9))[0], bad.astype(np.float32))


class TestAttentionSheet:
    @pytest.mark.parametrize("size", [(640, 400), (400, 640), (2000, 90)])
    @pytest.mark.parametrize("layers", [1, 3, 6])
    def test_every_box_at_its_full_size(self, layers: int, size: tuple[int, int]) -> None:
        attention = np.random.default_rng(0).random((layers, 5, 4, 4)).astype(np.float32)
        box = boxes_of((0, 0, 50, 50))
        grid = attention_grid(flat(*size), box[0], attention[:, 0], "cat")
        sheet = attention_sheet(flat(*size), box.repeat(5, axis=0), attention, ["cat"] * 5)
        assert sheet.width >= grid.width
        assert sheet.width * sheet.height > 5 * grid.width * grid.height
        assert sheet.height < 3 * sheet.width or size[0] > 10 * size[1]

    @pytest.mark.parametrize("shape", [(3, 1, 4, 4), (3, 4, 4)])
    def test_shapes_must_fit(self, shape: tuple[int, ...]) -> None:
        boxes = boxes_of((0, 0, 9, 9), (0, 0, 5, 5))
        with pytest.raises(InputError, match="attention of shape"):
            attention_sheet(flat(100, 100), boxes, np.ones(shape, np.float32), ["a", "b"])
