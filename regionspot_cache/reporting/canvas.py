"""The ground that pictures are drawn on: an image at screen size, outlines, tints, heat, sheets of panels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from regionspot_cache.errors import InputError
from regionspot_cache.reporting.lettering import (
    WHITE,
    Colour,
    TagStyle,
    fit_text,
    font_size_for,
    load_font,
    text_colour,
)

BACKGROUND: Colour = (32, 36, 44)
# Anchors of a ramp whose lightness only rises, so that it also reads in grey.
HEAT_RAMP = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)

MIN_SIDE = 900  # shorter images are enlarged to this longest side
MIN_CANVAS = 160  # a sliver gets margins up to this width or height
MIN_OUTLINE = 5  # line widths that the side of an outline takes at least
MASK_OPACITY = 0.4
GAP = 8  # between the panels of a sheet, pixels


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """An image at screen size, with margins where it is a sliver.

    Attributes:
        picture: image and margins; drawn on in place.
        scale: canvas pixels per image pixel, (x, y).
        origin: top left corner of the image, canvas pixels.
        size: (width, height) of the image inside the margins.
    """

    picture: Image.Image
    scale: tuple[float, float]
    origin: tuple[int, int]
    size: tuple[int, int]

    @property
    def line_width(self) -> int:
        return max(2, round(max(self.picture.size) / 340))

    def to_canvas(self, boxes: NDArray[np.float32]) -> NDArray[np.float64]:
        """Boxes [n,4] xyxy of the image -> of the canvas, clipped to the image."""
        low = np.array(self.origin * 2, np.float64)
        moved = boxes.astype(np.float64) * np.array(self.scale * 2) + low
        return np.clip(moved, low, low + np.array(self.size * 2) - 1)

    def image(self) -> Image.Image:
        """A copy of the image inside the margins."""
        (x, y), (w, h) = self.origin, self.size
        return self.picture.crop((x, y, x + w, y + h))

    def put_image(self, pixels: NDArray[np.floating]) -> None:
        """Replace the image by `pixels` [h,w,3], 0 to 255."""
        self.picture.paste(Image.fromarray(pixels.round().astype(np.uint8)), self.origin)


def make_canvas(image: NDArray[np.uint8], max_side: int) -> Canvas:
    """Bring an image u8 [H,W,3] to a longest side between MIN_SIDE and `max_side`, which wins."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise InputError(f"image is {image.dtype} {list(image.shape)}", "uint8 [H,W,3] in RGB order")
    height, width = image.shape[:2]
    scale = min(max_side, max(height, width, MIN_SIDE)) / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    kernel = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    resized = Image.fromarray(image).resize(size, kernel, reducing_gap=2.0)
    full = (max(size[0], MIN_CANVAS), max(size[1], MIN_CANVAS))
    origin = ((full[0] - size[0]) // 2, (full[1] - size[1]) // 2)
    picture = Image.new("RGB", full, BACKGROUND)
    picture.paste(resized, origin)
    return Canvas(picture=picture, scale=(size[0] / width, size[1] / height), origin=origin, size=size)


def outline(
    canvas: Canvas,
    box: NDArray[np.float64],
    colour: Colour,
    *,
    dashed: bool = False,
    width: int | None = None,
) -> None:
    """A box [4] of the canvas in its colour, cased in black or white so that it shows on any image.

    A box too small to see is drawn larger, about its centre. `width` of the line is the canvas's by default.
    """
    draw, width = ImageDraw.Draw(canvas.picture), width or canvas.line_width
    room = np.clip((MIN_OUTLINE * width - (box[2:] - box[:2])) / 2, 0, None)
    x0, y0, x1, y1 = (round(float(value)) for value in (*(box[:2] - room), *(box[2:] + room)))
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=text_colour(colour), width=width + 2)
    if not dashed:
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=width)
        return
    for start, end in _dashes(x0, x1, 4 * width):
        draw.rectangle((start, y0, end, min(y0 + width - 1, y1)), fill=colour)
        draw.rectangle((start, max(y1 - width + 1, y0), end, y1), fill=colour)
    for start, end in _dashes(y0, y1, 4 * width):
        draw.rectangle((x0, start, min(x0 + width - 1, x1), end), fill=colour)
        draw.rectangle((max(x1 - width + 1, x0), start, x1, end), fill=colour)


def _dashes(low: int, high: int, length: int) -> list[tuple[int, int]]:
    return [(start, min(start + length, high)) for start in range(low, high + 1, 2 * length)]


def tint_masks(canvas: Canvas, masks: NDArray[np.bool_], colours: Sequence[Colour]) -> None:
    """Lay masks [n,H,W] of the image over it as tints with a bright rim, large ones first."""
    pixels = np.asarray(canvas.image(), np.float32)
    for i in np.argsort(-masks.sum(axis=(1, 2)), kind="stable"):
        shrunk = Image.fromarray(masks[i]).convert("L").resize(canvas.size, Image.Resampling.BOX)
        mask = np.asarray(shrunk) > 127
        colour = np.array(colours[i], np.float32)
        pixels = np.where(mask[..., None], pixels * (1 - MASK_OPACITY) + colour * MASK_OPACITY, pixels)
        pixels = np.where(_rim(mask)[..., None], colour, pixels)
    canvas.put_image(pixels)


def _rim(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask [h,w] that touch its outside; the edge of the image does not count as outside."""
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def overlay_heat(canvas: Canvas, grid: NDArray[np.float32]) -> None:
    """Lay a grid [gh,gw] over the greyed image as heat, cells on the areas they stand for."""
    smooth = Image.fromarray(_unit_range(grid)).resize(canvas.size, Image.Resampling.BICUBIC)
    heat = np.clip(np.asarray(smooth, np.float64), 0, 1)  # bicubic overshoots
    positions = np.linspace(0, 1, len(HEAT_RAMP))
    ramp = np.stack([np.interp(heat, positions, channel) for channel in HEAT_RAMP.T], axis=-1)
    light = ImageOps.autocontrast(canvas.image().convert("L"), cutoff=1)  # dark photographs, too
    grey = np.asarray(light, np.float64)[..., None] * 0.75
    opacity = 0.1 + 0.75 * heat[..., None]
    canvas.put_image(grey * (1 - opacity) + ramp * opacity)


def _unit_range(grid: NDArray[np.float32]) -> NDArray[np.float32]:
    """A grid stretched to 0 to 1; a constant one is 0 everywhere."""
    low, high = float(grid.min()), float(grid.max())
    return ((grid - low) / (high - low if high > low else 1.0)).astype(np.float32)


def make_sheet(
    panels: Sequence[Image.Image], captions: Sequence[str] | None, columns: int, title: str = ""
) -> Image.Image:
    """Panels in rows, each under its caption, the title over all."""
    rows = [range(i, min(i + columns, len(panels))) for i in range(0, len(panels), columns)]
    cell = max(panel.width for panel in panels)
    width = columns * (cell + GAP) + GAP
    style = TagStyle(font_size=max(15, font_size_for((width, 0))))
    head = round(style.height * 1.6) if title else 0
    band = style.height + style.pad if captions else 0
    heights = [max(panels[i].height for i in row) + band + GAP for row in rows]
    sheet = Image.new("RGB", (width, head + sum(heights) + GAP), BACKGROUND)
    _write(sheet, title, (GAP, (GAP + head) // 2), style.font_size * 5 // 4, width - 2 * GAP)
    for row, top in zip(rows, np.cumsum([head + GAP, *heights[:-1]]), strict=True):
        for column, i in enumerate(row):
            left = GAP + column * (cell + GAP)
            if captions:
                _write(sheet, captions[i], (left, int(top) + band // 2), style.font_size, cell)
            sheet.paste(panels[i], (left + (cell - panels[i].width) // 2, int(top) + band))
    return sheet


def add_footer(picture: Image.Image, text: str, font_size: int) -> Image.Image:
    """The picture with one line of text in a band under it."""
    style = TagStyle(font_size=font_size)
    extended = Image.new("RGB", (picture.width, picture.height + style.height), BACKGROUND)
    extended.paste(picture)
    corner = (style.pad, picture.height + style.height // 2)
    _write(extended, text, corner, font_size, picture.width - 2 * style.pad)
    return extended


def _write(picture: Image.Image, text: str, left_middle: tuple[int, int], font_size: int, width: int) -> None:
    font = load_font(font_size)
    line = fit_text(text, font, width)
    ImageDraw.Draw(picture).text(left_middle, line, fill=WHITE, font=font, anchor="lm")
