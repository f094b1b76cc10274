"""Text on pictures: fonts, shortening, and tags that stay on the canvas and apart from each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Mark = Literal["right", "wrong"]

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
ELLIPSIS = "..."
WIDEST_TAG = 0.6  # of the canvas
RINGS = 6  # how many tag heights a tag may move away from its box before it is given up
MARK_SUPERSAMPLING = 8


@dataclass(frozen=True, kw_only=True)
class TagStyle:
    """Font size and the padding round the text, pixels."""

    font_size: int

    @property
    def pad(self) -> int:
        return max(2, round(self.font_size * 0.25))

    @property
    def height(self) -> int:
        ascent, descent = load_font(self.font_size).getmetrics()
        return ascent + descent + self.pad

    @property
    def mark_side(self) -> int:
        return round(self.font_size * 0.9)


@dataclass(frozen=True, kw_only=True)
class Tag:
    """A label that wants a place beside its box.

    Attributes:
        text: shortened where it is too long.
        suffix: follows the text and is never shortened, such as a score.
        box: xyxy, pixels of the canvas.
        mark: a tick or a cross before the text, so that the verdict never hangs on colour alone.
        priority: the higher ones choose their place first.
    """

    text: str
    suffix: str = ""
    box: tuple[float, float, float, float]
    colour: Colour
    priority: float = 0.0
    mark: Mark | None = None


@dataclass(frozen=True, kw_only=True)
class PlacedTag:
    """A tag with its shortened text and the rectangle it covers, xyxy, whole pixels of the canvas."""

    tag: Tag
    text: str
    area: tuple[int, int, int, int]


@lru_cache(maxsize=64)
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """The font that ships with Pillow, so that pictures look the same on every machine."""
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType; pip install --force-reinstall pillow")
    return font


def font_size_for(canvas: tuple[int, int]) -> int:
    """A size that can be read when the whole canvas (width, height) is on a screen."""
    return int(np.clip(round(max(canvas) / 44), 13, 24))


def one_line(text: str) -> str:
    """The text without line breaks and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def fit_text(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The longest beginning of `text` that fits into `width` pixels, with dots where it was cut."""
    text = one_line(text)
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        cut = text[:middle].rstrip() + ELLIPSIS
        low, high = (middle, high) if font.getlength(cut) <= width else (low, middle - 1)
    return text[:low].rstrip() + ELLIPSIS if low else ""


def text_colour(backing: Colour) -> Colour:
    """Black or white, whichever has the higher contrast on `backing` (WCAG 2 relative luminance)."""
    luminance = relative_luminance(backing)
    return BLACK if (luminance + 0.05) ** 2 >= 0.05 * 1.05 else WHITE


def relative_luminance(colour: Colour) -> float:
    """Relative luminance of an sRGB colour, 0 (black) to 1 (white)."""
    channels = np.asarray(colour, np.float64) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def place_tags(tags: Sequence[Tag], canvas: tuple[int, int], style: TagStyle) -> list[PlacedTag]:
    """Find a place for every tag, greedily by priority.

    Places lie wholly on the canvas and no two overlap. Among the free ones near its box a tag takes the one
    that hides the least of any box. Tags without a free place are left out of the result.

    Args:
        canvas: (width, height), pixels.
    """
    boxes = np.array([tag.box for tag in tags], np.float64).reshape(-1, 4)
    taken = np.zeros((0, 4))
    placed: list[PlacedTag] = []
    for index in sorted(range(len(tags)), key=lambda i: (-tags[i].priority, i)):
        text, size = _measure(tags[index], canvas[0], style)
        if size[0] > canvas[0] or size[1] > canvas[1]:
            continue
        places = _candidates(boxes[index], size, canvas)
        free = ~(_overlap(places, taken) > 0).any(axis=1)
        if not free.any():
            continue
        cost = _cost(places, boxes, index, size[1])
        best = places[int(np.where(free, cost, np.inf).argmin())]
        taken = np.vstack([taken, best])
        left, top, right, bottom = (int(value) for value in best)
        placed.append(PlacedTag(tag=tags[index], text=text, area=(left, top, right, bottom)))
    return placed


def _measure(tag: Tag, width: int, style: TagStyle) -> tuple[str, tuple[int, int]]:
    font = load_font(style.font_size)
    extra = 2 * style.pad + (style.mark_side + style.pad if tag.mark else 0)
    room = max(width * WIDEST_TAG, min(width, 200)) - extra - font.getlength(tag.suffix)
    text = fit_text(tag.text, font, room) + tag.suffix
    return text, (int(np.ceil(font.getlength(text))) + extra, style.height)


def _candidates(
    box: NDArray[np.float64], size: tuple[int, int], canvas: tuple[int, int]
) -> NDArray[np.float64]:
    """Places [C,4] round a box, best first: above, below, beside, inside, then further and further away."""
    (x0, y0, x1, y1), (w, h) = box, size
    middle = (x0 + x1 - w) / 2
    corners = [(x0, y0 - h), (x0, y1), (x1 - w, y0 - h), (x1 - w, y1), (x1, y0), (x0 - w, y0)]
    corners += [(x1, y1 - h), (x0 - w, y1 - h), (x0, y0), (x1 - w, y0), (x0, y1 - h), (x1 - w, y1 - h)]
    corners += [(middle, y0 - h), (middle, y1), (middle, (y0 + y1 - h) / 2)]
    for ring in range(1, RINGS + 1):
        away = ring * (h + 1)
        corners += [(x, y0 - h - away) for x in (x0, x1 - w)] + [(x, y1 + away) for x in (x0, x1 - w)]
        corners += [(x, y0 + away) for x in (x1, x0 - w, x0, x1 - w)]
        corners += [(x1 + away, y0), (x0 - w - away, y0)]
    top_left = np.clip(np.round(np.array(corners, np.float64)), 0, [canvas[0] - w, canvas[1] - h])
    return np.concatenate([top_left, top_left + np.array(size, np.float64)], axis=1)


def _cost(
    places: NDArray[np.float64], boxes: NDArray[np.float64], own: int, height: int
) -> NDArray[np.float64]:
    """Cost [C]: share of each box that is hidden (its own counts more), distance to its box, order."""
    area = np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1.0)
    hidden = np.minimum(_overlap(places, boxes) / area, 1.0)  # [C,n]
    weights = np.where(np.arange(len(boxes)) == own, 12.0, 6.0)
    distance = _distance(places, boxes[own]) / height
    return hidden @ weights + distance + 0.02 * np.arange(len(places))


def _overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area of the intersection of every pair of rectangles, [A,4] and [B,4] -> [A,B]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=-1)


def _distance(places: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gap between each place [C,4] and a box, pixels; 0 where they touch."""
    gap = np.maximum(places[:, :2] - box[2:], box[:2] - places[:, 2:])
    return np.hypot(*np.clip(gap, 0, None).T)


def draw_tags(picture: Image.Image, placed: Sequence[PlacedTag], style: TagStyle) -> None:
    """Draw tags over the lines that lead from those standing away from their boxes."""
    for tag in placed:
        _draw_leader(ImageDraw.Draw(picture), tag, style)
    for tag in placed:
        _draw_tag(picture, tag, style)


def _draw_tag(picture: Image.Image, placed: PlacedTag, style: TagStyle) -> None:
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = placed.area
    ink = text_colour(placed.tag.colour)
    draw.rectangle((left, top, right - 1, bottom - 1), fill=placed.tag.colour, outline=ink)
    x = left + style.pad
    if placed.tag.mark:
        draw_mark(picture, placed.tag.mark, (x, (top + bottom - style.mark_side) // 2), style.mark_side, ink)
        x += style.mark_side + style.pad
    draw.text((x, (top + bottom) / 2), placed.text, fill=ink, font=load_font(style.font_size), anchor="lm")


def _draw_leader(draw: ImageDraw.ImageDraw, placed: PlacedTag, style: TagStyle) -> None:
    area, box = np.array(placed.area, np.float64), np.array(placed.tag.box)
    if _distance(area[None], box)[0] < style.height / 3:
        return
    start = (area[:2] + area[2:]) / 2
    end = np.clip(start, box[:2], box[2:])
    line = (*start, *end)
    draw.line(line, fill=text_colour(placed.tag.colour), width=4)
    draw.line(line, fill=placed.tag.colour, width=2)


def draw_mark(picture: Image.Image, mark: Mark, corner: tuple[int, int], side: int, ink: Colour) -> None:
    """Draw a smooth tick or cross, `side` pixels large; the default font has neither."""
    big = side * MARK_SUPERSAMPLING
    shape = Image.new("L", (big, big))
    draw = ImageDraw.Draw(shape)
    strokes = {
        "right": [[(0.08, 0.55), (0.38, 0.85), (0.92, 0.18)]],
        "wrong": [[(0.15, 0.15), (0.85, 0.85)], [(0.85, 0.15), (0.15, 0.85)]],
    }
    for stroke in strokes[mark]:
        points = [(x * big, y * big) for x, y in stroke]
        draw.line(points, fill=255, width=round(big * 0.17), joint="curve")
    picture.paste(ink, corner, shape.resize((side, side), Image.Resampling.BOX))
