"""A line chart as SVG inside a page: in the page's colours, light or dark, and in the reader's fonts."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from regionspot_cache.errors import InputError
from regionspot_cache.reporting.lettering import shortened, visible

Floats = NDArray[np.float64]

STRETCHES = 200  # parts of a long run, each drawn as its mean and the range of its values
FEW = 40  # points that are marked one by one, so that one alone is seen
SIZE, FONT = (5.6, 3.4), 11  # inches, points: legible on a phone
INK = "#010203"  # stands for the colour of the page's text
COLOURS = tuple(f"#01020{i}" for i in range(4, 9))  # stand for --s0 to --s4 of its style sheet
LENGTH = 40  # characters of a name or label in the chart
DASHES = ("-", "--", "-.", ":")
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")


@dataclass(frozen=True)
class Curve:
    """A line chart of n points."""

    kind: ClassVar = "curve"
    title: str
    xs: Sequence[float]  # n values of the horizontal axis, rising
    series: Mapping[str, Sequence[float | None]]  # n values each; what is missing or not finite leaves a gap
    x_label: str  # with units
    y_label: str

    def __post_init__(self) -> None:
        for name, ys in self.series.items():
            if len(ys) != len(self.xs):
                raise InputError(f"series {name!r} of {self.title!r} has {len(ys)} values", f"{len(self.xs)}")

    @property
    def note(self) -> str:
        size = -(-len(self.xs) // STRETCHES)
        return f"Lines are means over {size} points, in the range of their values." if size > 1 else ""

    def svg(self) -> Markup:
        """The chart; matplotlib escapes its texts."""
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        settings = {"svg.fonttype": "none", "svg.hashsalt": visible(self.title), "text.parse_math": False}
        file = io.StringIO()
        with matplotlib.rc_context(settings | {"font.size": FONT} | dict.fromkeys(INKED, INK)):
            figure = Figure(figsize=SIZE, layout="constrained")
            FigureCanvasSVG(figure)
            axes = figure.subplots()
            for i, (name, ys) in enumerate(self.series.items()):
                colour, dash = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
                x, low, mean, high = stretches(self.xs, ys)
                marker = "." if len(x) <= FEW else ""
                axes.plot(x, mean, label=shortened(name, LENGTH), color=colour, linestyle=dash, marker=marker)
                if len(x) < len(ys):
                    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.set(xlabel=shortened(self.x_label, LENGTH), ylabel=shortened(self.y_label, LENGTH))
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", alpha=0.2)
            if self.series:
                axes.legend(frameon=False)
            nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph")  # the reader's fonts draw the letters
                figure.savefig(file, format="svg", transparent=True, metadata=nothing)
        svg = file.getvalue().replace(INK, "currentColor")
        for number, colour in enumerate(COLOURS):
            svg = svg.replace(colour, f"var(--s{number})")
        return Markup(re.sub(r' id="[\w.]+_\d+"', "", svg[svg.index("<svg") :]))  # a page has several charts

    def in_words(self) -> str:
        """What a reader who cannot see the chart needs: first, lowest, highest, last value of each series."""
        parts = [f"{self.title}."]
        for name, ys in self.series.items():
            known = [(x, y) for x, y in zip(self.xs, ys, strict=True) if y is not None and np.isfinite(y)]
            if not known:
                parts.append(f"{name}: no values.")
                continue
            values, (first, start), (last, end) = [y for _, y in known], known[0], known[-1]
            parts.append(
                f"{name}: {start:.4g} at {self.x_label} {first:g}, lowest {min(values):.4g}, "
                f"highest {max(values):.4g}, {end:.4g} at {self.x_label} {last:g}."
            )
        return " ".join(parts)


def stretches(xs: Sequence[float], ys: Sequence[float | None]) -> tuple[Floats, Floats, Floats, Floats]:
    """A series in at most STRETCHES parts: first x, lowest, mean and highest value of each, NaN for none."""
    x = np.array(xs, np.float64)
    y = np.array([np.nan if value is None else value for value in ys], np.float64)
    known = np.isfinite(y)
    y[~known] = np.nan
    if len(x) <= STRETCHES:
        return x, y, y, y
    starts = np.linspace(0, len(x), STRETCHES, endpoint=False).astype(int)
    count, total = (np.add.reduceat(values, starts) for values in (known.astype(float), np.nan_to_num(y)))
    mean = np.divide(total, count, out=np.full(STRETCHES, np.nan), where=count > 0)
    return x[starts], np.fmin.reduceat(y, starts), mean, np.fmax.reduceat(y, starts)
