"""Pictures for people: the regions of an image as methods name them, and where a head looks.

A picture is a list of panels, each the same image with something drawn over it. Pages show panels beside or
below each other, as their width allows; files hold all of them as a sheet.
The colours are Okabe and Ito's, which people with any colour vision can tell apart (jfly.uni-koeln.de/color).
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from regionspot_cache.reporting.lettering import legible, shortened
from regionspot_cache.reporting.scene import Scene

if TYPE_CHECKING:  # importing matplotlib takes time, and most calls draw nothing
    from matplotlib.axes import Axes

PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7")
VERDICTS = {True: "#56b4e9", False: "#d55e00", None: "#f0f0f0"}
INK, GROUND, PAPER = "#000000", "#20242c", "#ffffff"

SIDE = 640  # longest side of a panel, pixels
MIN_SIDE = 160  # a sliver gets margins up to this width or height
MIN_BOX = 12  # a smaller box is drawn this large
FONT, CAPTION, GAP = 18, 32, 10  # pixels: letters, the line over a panel, the space between panels
LENGTH = 32  # characters of a name on a picture
MASK_OPACITY = 0.4
HEAT_CELL = 8  # pixels of a cell of a map of attention, before it is stretched over its image
DPI, POINT = 128, 0.5625  # points in a pixel: matplotlib measures in points. Powers of two: sizes are exact


class Panel(NamedTuple):
    """One picture of a sheet."""

    caption: str  # one line
    alt: str  # what it shows, for readers who cannot see it
    image: NDArray[np.uint8]  # [H, W, 3]
    draw: (
        "Callable[[Axes], str]"  # lines and letters in pixels of the image; gives what the caption should add
    )
    over: NDArray[np.uint8] | None = None  # [h, w, 4], with alpha, over all of the image


class _Region(NamedTuple):
    """A box in the image with its tag; where that has no room, `number` stands alone."""

    box: NDArray[np.float32]
    tag: str
    number: str
    colour: str
    priority: float
    dashed: bool = False


def comparison(scene: Scene) -> list[Panel]:
    """The truth where it is known, and what each method says (paper, Figure 3).

    Right names have a tick and wrong ones a cross and a dashed box, so that nothing depends on colour. A name
    without a verdict has a colour of its own where no truth is known, the same in all panels.
    """
    panels = [_truth(scene)] if scene.truth is not None else []
    for method, (names, _) in scene.named.items():
        verdicts = [scene.right(method, i) for i in range(len(names))]
        known = len(names) - verdicts.count(None)
        caption = f"{method}: {verdicts.count(True)} of {known} right" if known else method
        panels.append(_named(scene, method, caption))
    return panels


def regions(scene: Scene) -> Panel:
    """The first method's names, on SAM's masks where they are known."""
    method = next(iter(scene.named))
    return _named(scene, method, f"{method} on SAM's masks", masks=scene.masks)


def attention(scene: Scene, i: int) -> list[Panel]:
    """Where the first method looks for box i, a panel a layer (paper, Figure 4): the brighter, the more.

    The grid covers the whole image, because CLIP sees it resized without cropping. The heat of each panel
    runs from the smallest to the largest value of its layer.
    """
    assert scene.attention is not None
    said = scene.says(next(iter(scene.named)), i, length=LENGTH)
    grey = ImageOps.autocontrast(Image.fromarray(scene.image).convert("L"), cutoff=1)  # dark photographs, too
    ground = np.asarray(grey.point(lambda value: 0.75 * value).convert("RGB"))
    panels = []
    for number, grid in enumerate(scene.attention[:, i], 1):
        peak = float(grid.max() / grid.mean()) if grid.mean() > 0 else 1.0
        y, x = (np.array(np.unravel_index(grid.argmax(), grid.shape)) + 0.5) / grid.shape * 100
        where = f"{x:.0f} % from the left, {y:.0f} % from the top"
        panels.append(
            Panel(
                caption=f"{i + 1} {said}, layer {number}: peak {peak:.1f} x mean",
                alt=f"Cross-attention of box {i + 1} as heat over the image: layer {number} most at {where}",
                image=ground,
                draw=partial(_draw_box, _inside(scene, scene.boxes[i])),
                over=_heat(grid),
            )
        )
    return panels


def sheet(
    panels: Sequence[Panel], *, columns: int = 1, side: int = SIDE, captions: bool = True
) -> Image.Image:
    """Panels of one image in rows, each under its caption, `side` pixels along its longer side.

    Only lines and letters are matplotlib's, which takes tens of milliseconds to show an image.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scale = side / max(panels[0].image.shape[:2])
    h, w = (max(MIN_SIDE, round(length * scale)) for length in panels[0].image.shape[:2])
    band, rows = (CAPTION if captions else 0), ceil(len(panels) / columns)
    width, height = columns * (w + GAP) - GAP, rows * (h + band + GAP) - GAP
    picture = Image.new("RGB", (width, height), GROUND)
    with matplotlib.rc_context({"font.size": FONT * POINT, "text.parse_math": False}):
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="none")
        canvas = FigureCanvasAgg(figure)
        for i, panel in enumerate(panels):
            left, top = i % columns * (w + GAP), i // columns * (h + band + GAP)
            shown = _shown(panel, scale)
            picture.paste(shown, (left + (w - shown.width) // 2, top + band + (h - shown.height) // 2))
            axes = figure.add_axes((left / width, 1 - (top + band + h) / height, w / width, h / height))
            _measure(axes, panel.image, (w / scale, h / scale))
            caption = shortened(panel.caption + panel.draw(axes), round(w / (0.6 * FONT)))
            if captions:
                text, families = legible(caption)
                place = (left / width, 1 - (top + band / 2) / height)
                figure.text(*place, text, family=families, color=PAPER, verticalalignment="center")
        canvas.draw()
        ink = Image.fromarray(np.asarray(canvas.buffer_rgba()))
    picture.paste(ink, mask=ink)
    return picture


def _shown(panel: Panel, scale: float) -> Image.Image:
    """The image of a panel and what lies over it, at the size of the screen."""
    height, width = panel.image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shown = Image.fromarray(panel.image).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    if panel.over is not None:
        over = Image.fromarray(panel.over).resize(size, Image.Resampling.BILINEAR)
        shown.paste(over, mask=over)
    return shown


def _measure(axes: "Axes", image: NDArray[np.uint8], span: tuple[float, float]) -> None:
    """Has axes count in pixels of the image, which lies in the middle of `span` of them across and down."""
    height, width = image.shape[:2]
    axes.set_axis_off()
    axes.set_xlim((width - span[0]) / 2, (width + span[0]) / 2)
    axes.set_ylim((height + span[1]) / 2, (height - span[1]) / 2)


def _truth(scene: Scene) -> Panel:
    assert scene.truth is not None
    boxes, names = scene.annotated or (scene.boxes, [name or "not annotated" for name in scene.truth])
    found = []
    for i, (box, name) in enumerate(zip(boxes, names, strict=True)):
        number = "" if scene.annotated else str(i + 1)  # those of other boxes would mislead
        tag = f"{number} {shortened(name, LENGTH)}".strip()
        small = -float((box[2:] - box[:2]).prod())
        found.append(_Region(_inside(scene, box), tag, number, VERDICTS[None], small))
    alt = f"truly {listed(names)}"
    return Panel(caption="Truth", alt=alt, image=scene.image, draw=partial(_draw_regions, found))


def _named(scene: Scene, method: str, caption: str, masks: NDArray[np.bool_] | None = None) -> Panel:
    names, scores = scene.named[method]
    every = dict.fromkeys(name for one in scene.named.values() for name in one.names)
    by_name = {name: PALETTE[k % len(PALETTE)] for k, name in enumerate(every)}
    found = []
    for i, box in enumerate(scene.boxes):
        right = scene.right(method, i)
        found.append(
            _Region(
                box=_inside(scene, box),
                tag=f"{i + 1} {scene.says(method, i, length=LENGTH)}",
                number=str(i + 1),
                colour=VERDICTS[right] if scene.truth is not None else by_name[names[i]],
                priority=float(scores[i]),
                dashed=right is False,
            )
        )
    alt = f"{method} says {listed(names)}"
    over = None if masks is None else _tint(masks, [region.colour for region in found])
    return Panel(caption=caption, alt=alt, image=scene.image, draw=partial(_draw_regions, found), over=over)


def _inside(scene: Scene, box: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = scene.image.shape[:2]
    return np.clip(box, 0, [width, height, width, height])


def listed(names: Sequence[str], limit: int = 12) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _draw_regions(found: Sequence[_Region], axes: "Axes") -> str:
    for region in sorted(found, key=lambda region: -(region.box[2:] - region.box[:2]).prod()):
        _outline(axes, region.box, region.colour, dashed=region.dashed)
    missing = sum(not _tag(axes, region) for region in sorted(found, key=lambda region: -region.priority))
    return f" (no room for {missing} of {len(found)} names)" if missing else ""


def _tag(axes: "Axes", region: _Region) -> bool:
    """The tag of a region where it covers no other, or else its number; whether the tag had room."""
    canvas: Any = axes.figure.canvas  # that of Agg
    renderer = canvas.get_renderer()
    taken = [text.get_window_extent(renderer).padded(4) for text in axes.texts]
    (x0, y0, x1, y1), (whole, families) = region.box, legible(region.tag)
    down = ((y0, "bottom"), (y1, "top"), (y0, "top"), (y1, "bottom"))
    across = ((x0, "left"), (x1, "right"), (x1, "left"), (x0, "right"))
    back = {"facecolor": region.colour, "edgecolor": INK, "linewidth": 0.7, "pad": 2}
    tag = axes.text(x0, y0, "", family=families, color=INK, bbox=back)
    for text, (y, vertical), (x, horizontal) in product(filter(None, (whole, region.number)), down, across):
        tag.set(text=text, x=x, y=y, verticalalignment=vertical, horizontalalignment=horizontal)
        area = tag.get_window_extent(renderer).padded(4)
        on_panel = axes.bbox.contains(*area.min) and axes.bbox.contains(*area.max)
        if on_panel and not area.count_overlaps(taken):
            return text == whole
    tag.remove()
    return False


def _outline(axes: "Axes", box: NDArray[np.floating], colour: str, *, dashed: bool = False) -> None:
    """A box in its colour, cased in black so that it shows on any image."""
    least = MIN_BOX * abs(np.ptp(axes.get_xlim())) / axes.bbox.width
    middle, half = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2], least) / 2
    (x0, y0), (x1, y1) = middle - half, middle + half
    for ink, width, style in ((INK, 3.6, "-"), (colour, 2.0, "--" if dashed else "-")):
        xs, ys = (x0, x1, x1, x0, x0), (y0, y0, y1, y1, y0)
        axes.plot(xs, ys, color=ink, linewidth=width, linestyle=style, solid_joinstyle="miter")


def _tint(masks: NDArray[np.bool_], colours: Sequence[str]) -> NDArray[np.uint8]:
    """Masks [n, H, W] as tints with a bright rim, large ones first; as of `Panel.over`."""
    from matplotlib.colors import to_rgba

    step = ceil(max(masks.shape[1:]) / SIDE)
    small = masks[:, ::step, ::step]
    tints = np.zeros((*small.shape[1:], 4))
    for i in np.argsort(-small.sum(axis=(1, 2)), kind="stable"):
        tints[small[i]] = to_rgba(colours[i], MASK_OPACITY)
        tints[_rim(small[i])] = to_rgba(colours[i])
    return (255 * tints).round().astype(np.uint8)


def _rim(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask [h, w] that touch its outside; the edge of the image does not count as outside."""
    padded = np.pad(mask, 1, mode="edge")
    return mask & ~(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])


def _heat(grid: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A grid [gh, gw] as heat, cells on the areas they stand for; as of `Panel.over`."""
    import matplotlib

    low, high = float(grid.min()), float(grid.max())
    heat = (grid - low) / (high - low if high > low else 1.0)  # a constant grid is cold everywhere
    # Heat is smoothed, not colours, which would mix to others.
    size = (HEAT_CELL * grid.shape[1], HEAT_CELL * grid.shape[0])
    smooth = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.HAMMING))
    return matplotlib.colormaps["inferno"](smooth, alpha=0.1 + 0.75 * smooth, bytes=True)


def _draw_box(box: NDArray[np.float32], axes: "Axes") -> str:
    _outline(axes, box, PAPER)
    return ""
