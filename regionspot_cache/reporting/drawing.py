"""Pictures for people: regions with names, masks, cross-attention and methods side by side.

Every function takes an image u8 [H,W,3] and boxes xyxy in its pixels, and returns a new PIL image whose
longest side suits a screen: large images are reduced, tiny ones enlarged, slivers get margins, so that
labels are legible.
The colours are Okabe and Ito's, which people with any colour vision can tell apart (jfly.uni-koeln.de/color).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regionspot_cache.errors import InputError
from regionspot_cache.reporting.canvas import (
    Canvas,
    add_footer,
    make_canvas,
    make_sheet,
    outline,
    overlay_heat,
    tint_masks,
)
from regionspot_cache.reporting.lettering import (
    WHITE,
    Colour,
    Mark,
    Tag,
    TagStyle,
    draw_tags,
    font_size_for,
    place_tags,
)

PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
RIGHT_COLOUR, WRONG_COLOUR, TRUTH_COLOUR = (86, 180, 233), (213, 94, 0), (240, 240, 240)
SHEET_WIDTH = 1600  # side-by-side pictures aim at this width, pixels
MIN_PANEL = 480
ATTENTION_PANEL = 528  # longest side of a layer: three landscapes fill a sheet
PANEL_FONT, SMALL_PANEL_FONT = 20, 16  # legible when a whole sheet is on a screen; many boxes need room
FEW_BOXES = 8


@dataclass(frozen=True, kw_only=True)
class _Named:
    """One box with what is written beside it."""

    name: str
    score: float | None
    colour: Colour
    mark: Mark | None = None


def draw_regions(
    image: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    labels: Sequence[str],
    scores: NDArray[np.float32] | None = None,
    masks: NDArray[np.bool_] | None = None,
    max_side: int = 1024,
) -> Image.Image:
    """Boxes with their names, and masks where given; one colour for each distinct name.

    Labels stay on the picture and never cover each other; those with the highest scores (or the smallest
    boxes) choose first, and a line under the picture counts the ones that found no room.

    Args:
        image: u8 [H,W,3].
        boxes: f32 [n,4] xyxy, pixels of the image.
        labels: n names; long ones are shortened to fit.
        scores: f32 [n], printed after the names.
        masks: bool [n,H,W].
        max_side: longest side of the picture, pixels.

    Raises:
        InputError: shapes that do not belong together, or boxes that are not finite.
    """
    canvas = make_canvas(image, max_side)
    _check_boxes(boxes, len(labels))
    _check_count("scores", scores, len(labels))
    by_name = _colours(labels)
    colours = [by_name[label] for label in labels]
    if masks is not None:
        _check_masks(masks, len(labels), image)
        tint_masks(canvas, masks, colours)
    named = [
        _Named(name=label, score=None if scores is None else float(scores[i]), colour=colours[i])
        for i, label in enumerate(labels)
    ]
    return _draw_named(canvas, boxes, named, font_size_for(canvas.picture.size))


def draw_attention(
    image: NDArray[np.uint8], box: NDArray[np.float32], attention: NDArray[np.float32], max_side: int = 1024
) -> Image.Image:
    """Where one region looks: attention as heat over the grey image, its box in white (paper, Figure 4).

    The grid covers the whole image, because CLIP sees it resized without cropping. The heat runs from the
    smallest to the largest value of this map; leave the class token out of it.

    Args:
        image: u8 [H,W,3].
        box: f32 [4] xyxy, pixels of the image.
        attention: f32 [gh,gw], any scale.
        max_side: longest side of the picture, pixels.

    Raises:
        InputError: shapes that do not belong together, or values that are not finite.
    """
    box = np.asarray(box, np.float32).reshape(1, -1)
    _check_boxes(box, 1)
    _check_attention(attention, dims=2)
    canvas = make_canvas(image, max_side)
    overlay_heat(canvas, attention)
    outline(canvas, canvas.to_canvas(box)[0], WHITE, width=max(3, canvas.line_width))
    return canvas.picture


def attention_grid(
    image: NDArray[np.uint8], box: NDArray[np.float32], attentions: NDArray[np.float32], title: str
) -> Image.Image:
    """The attention of one region in every layer of the head, a panel a layer, first layer first.

    Each panel has its own heat range; its caption says how many times the mean the peak is.

    Args:
        image: u8 [H,W,3].
        box: f32 [4] xyxy, pixels of the image.
        attentions: f32 [L,gh,gw], not negative.
        title: one line over the panels.

    Raises:
        InputError: shapes that do not belong together, or values that are not finite.
    """
    _check_attention(attentions, dims=3)
    panels = [draw_attention(image, box, attention, max_side=ATTENTION_PANEL) for attention in attentions]
    peaks = [float(a.max() / a.mean()) if a.mean() > 0 else 1.0 for a in attentions]
    captions = [f"Layer {i}: peak {peak:.1f} x mean" for i, peak in enumerate(peaks, 1)]
    rows = ceil(len(panels) / max(1, SHEET_WIDTH // panels[0].width))
    return make_sheet(panels, captions, ceil(len(panels) / rows), title)


def attention_sheet(
    image: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    attentions: NDArray[np.float32],
    titles: Sequence[str],
) -> Image.Image:
    """The `attention_grid` of several regions at full size, in as many columns as make the sheet square.

    Args:
        image: u8 [H,W,3].
        boxes: f32 [n,4] xyxy, pixels of the image.
        attentions: f32 [L,n,gh,gw], not negative.
        titles: n lines, one over the panels of each region.

    Raises:
        InputError: shapes that do not belong together, values that are not finite, or no boxes.
    """
    _check_boxes(boxes, len(titles))
    if not titles or attentions.ndim != 4 or attentions.shape[1] != len(titles):
        raise InputError(f"attention of shape {list(attentions.shape)}", f"[L,{len(titles)},gh,gw], n >= 1")
    grids = [
        attention_grid(image, box, attentions[:, i], title)
        for i, (box, title) in enumerate(zip(boxes, titles, strict=True))
    ]
    columns = round(sqrt(len(grids) * grids[0].height / grids[0].width))
    return make_sheet(grids, None, min(max(1, columns), len(grids)))


def compare_predictions(
    image: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    predictions: Mapping[str, tuple[Sequence[str], NDArray[np.float32]]],
    truth: Sequence[str | None] | None = None,
    annotated: tuple[NDArray[np.float32], Sequence[str]] | None = None,
) -> Image.Image:
    """The same boxes as named by several methods, beside the truth (paper, Figure 3).

    Right names have a tick and a solid box, wrong ones a cross and a dashed box, so that nothing depends on
    colour. Names are compared without regard to case and underscores. Where the truth is not known, every
    name has a colour of its own, the same in all panels.

    Args:
        image: u8 [H,W,3].
        boxes: f32 [n,4] xyxy, pixels of the image.
        predictions: method name -> (n labels, n scores).
        truth: n true labels, None for a box that shows no annotated object; None when nothing is known.
        annotated: boxes f32 [m,4] and m names of the panel with the truth, where `boxes` are proposals.

    Raises:
        InputError: shapes that do not belong together, boxes that are not finite, or nothing to compare.
    """
    if not predictions:
        raise InputError("no predictions to compare", "at least one method")
    _check_boxes(boxes, len(boxes))
    _check_count("true labels", truth, len(boxes))
    panels = [] if truth is None else [("Truth", *_true(boxes, truth, annotated))]
    colours = _colours(name for labels, _ in predictions.values() for name in labels)
    for method, (labels, scores) in predictions.items():
        _check_count(f"labels of {method}", labels, len(boxes))
        _check_count(f"scores of {method}", scores, len(boxes))
        known = truth or [None] * len(boxes)
        named = [
            _judge(label, float(score), true, TRUTH_COLOUR if truth else colours[label])
            for label, score, true in zip(labels, scores, known, strict=True)
        ]
        panels.append((_count_right(method, named, known), boxes, named))
    few = len(boxes) <= FEW_BOXES
    columns = _columns(len(panels)) if few else min(2, len(panels))
    side = max(MIN_PANEL, SHEET_WIDTH // columns)
    font_size = PANEL_FONT if few else SMALL_PANEL_FONT
    pictures = [_draw_named(make_canvas(image, side), where, named, font_size) for _, where, named in panels]
    return make_sheet(pictures, [caption for caption, *_ in panels], columns)


def _true(
    boxes: NDArray[np.float32],
    truth: Sequence[str | None],
    annotated: tuple[NDArray[np.float32], Sequence[str]] | None,
) -> tuple[NDArray[np.float32], list[_Named]]:
    where, names = annotated or (boxes, [name or "not annotated" for name in truth])
    _check_boxes(where, len(names))
    return where, [_Named(name=name, score=None, colour=TRUTH_COLOUR) for name in names]


def _count_right(method: str, named: Sequence[_Named], truth: Sequence[str | None]) -> str:
    known = sum(name is not None for name in truth)
    right = sum(one.mark == "right" for one in named)
    return f"{method}: {right} of {known} right" if known else method


def _draw_named(
    canvas: Canvas, boxes: NDArray[np.float32], named: Sequence[_Named], font_size: int
) -> Image.Image:
    """Outlines (small boxes over large ones), then as many tags as have room, then a line on the others."""
    moved = canvas.to_canvas(boxes)
    areas = (moved[:, 2] - moved[:, 0]) * (moved[:, 3] - moved[:, 1])
    for i in np.argsort(-areas, kind="stable"):
        outline(canvas, moved[i], named[i].colour, dashed=named[i].mark == "wrong")
    tags = [_tag(one, moved[i], -float(areas[i])) for i, one in enumerate(named)]
    style = TagStyle(font_size=font_size)
    placed = place_tags(tags, canvas.picture.size, style)
    draw_tags(canvas.picture, placed, style)
    if missing := len(tags) - len(placed):
        return add_footer(canvas.picture, f"+ {missing} labels without room", font_size)
    return canvas.picture


def _tag(named: _Named, box: NDArray[np.float64], smallness: float) -> Tag:
    return Tag(
        text=named.name,
        suffix="" if named.score is None else f" {named.score:.2f}",
        box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        colour=named.colour,
        priority=smallness if named.score is None else named.score,
        mark=named.mark,
    )


def _judge(label: str, score: float, true: str | None, colour: Colour) -> _Named:
    """A named box; one whose truth is not known has `colour` and no mark."""
    if true is None:
        return _Named(name=label, score=score, colour=colour)
    right = _comparable(label) == _comparable(true)
    return _Named(
        name=label,
        score=score,
        colour=RIGHT_COLOUR if right else WRONG_COLOUR,
        mark="right" if right else "wrong",
    )


def _comparable(name: str) -> str:
    return name.replace("_", " ").strip().casefold()


def _colours(labels: Iterable[str]) -> dict[str, Colour]:
    return {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(dict.fromkeys(labels))}


def _columns(count: int) -> int:
    return count if count <= 3 else ceil(sqrt(count))


def _check_boxes(boxes: NDArray[np.float32], count: int) -> None:
    if boxes.shape != (count, 4):
        raise InputError(
            f"boxes have shape {list(boxes.shape)}", f"[{count}, 4]: one xyxy row for each label"
        )
    if not np.isfinite(boxes).all():
        raise InputError(
            f"box {int(np.isfinite(boxes).all(axis=1).argmin())} is not finite", "xyxy in pixels"
        )


def _check_count(name: str, values: Sequence | NDArray | None, count: int) -> None:
    if values is not None and len(values) != count:
        raise InputError(f"{len(values)} {name}", f"{count}: one for each box or picture")


def _check_masks(masks: NDArray[np.bool_], count: int, image: NDArray[np.uint8]) -> None:
    expected = [count, *image.shape[:2]]
    if list(masks.shape) != expected or masks.dtype != np.bool_:
        raise InputError(f"masks are {masks.dtype} {list(masks.shape)}", f"bool {expected}: one for each box")


def _check_attention(maps: NDArray[np.float32], *, dims: int) -> None:
    if maps.ndim != dims or 0 in maps.shape or not np.isfinite(maps).all():
        shape = "[gh,gw]" if dims == 2 else "[L,gh,gw]"
        raise InputError(f"attention of shape {list(maps.shape)}", f"{shape}, every value finite")
