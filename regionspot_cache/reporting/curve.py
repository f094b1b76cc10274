"""A line chart as inline SVG: axes, ticks, units, and each series raw (thin) and smoothed (thick).

Series differ in colour and in the dashes of the smoothed line. Colours come from the CSS classes of the page,
so the chart follows light and dark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAX_POINTS = 600  # of each drawn line; more would not be seen
SMOOTHING_WINDOWS = 40  # the smoothed line is a mean over this fraction of the points
NUM_STYLES = 6  # classes s0 to s5 in the style sheet
CHARACTER = 0.58  # mean advance of a digit, in font sizes


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Size of the chart and the ranges of its axes."""

    width: int
    height: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: int
    right: int = 20
    top: int = 12
    bottom: int = 50

    def x(self, value: float | Floats) -> float | Floats:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float | Floats) -> float | Floats:
        low, high = self.y_range
        return (
            self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)
        )


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values (1, 2 or 5 times a power of ten apart) that span low to high."""
    rough = (high - low) / max(count, 1)
    power = 10.0 ** floor(log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def format_tick(value: float) -> str:
    """Short text for a round value: 450k, 2M, 0.05, 1e-06."""
    size = abs(value)
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= factor:
            return f"{value / factor:.6g}{suffix}"
    return f"{value:.6g}"


def smoothing_window(count: int) -> int:
    """Points under the running mean of a series of `count` points: odd, 1 for short series."""
    return 2 * (count // SMOOTHING_WINDOWS // 2) + 1


def smooth(ys: Floats) -> Floats:
    """Centred running mean [n]; NaN stays NaN and counts for no neighbour."""
    half = smoothing_window(len(ys)) // 2
    known = np.isfinite(ys)
    total = _window_sums(np.where(known, ys, 0.0), half)
    weight = _window_sums(known.astype(np.float64), half)
    return np.where(known, total / np.maximum(weight, 1), np.nan)


def _window_sums(values: Floats, half: int) -> Floats:
    """Sums [n] over the points within `half` of each, from prefix sums: windows are wide on long runs."""
    prefix = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    return prefix[np.minimum(place + half + 1, len(values))] - prefix[np.maximum(place - half, 0)]


def thin(xs: Floats, ys: Floats) -> tuple[Floats, Floats]:
    """At most about MAX_POINTS points, keeping the lowest and the highest of every stretch."""
    if len(xs) <= MAX_POINTS:
        return xs, ys
    keep: list[int] = []
    for part in np.array_split(np.arange(len(xs)), MAX_POINTS // 2):
        values = ys[part]
        if np.isfinite(values).any():
            keep += sorted({int(part[np.nanargmin(values)]), int(part[np.nanargmax(values)])})
        else:
            keep.append(int(part[0]))
    return xs[keep], ys[keep]


def summary(title: str, xs: Floats, series: Mapping[str, Floats], x_label: str) -> str:
    """What a reader who cannot see the chart needs: first, lowest, highest and last value of each series."""
    parts = [f"{title}."]
    for name, ys in series.items():
        known = np.flatnonzero(np.isfinite(ys))
        if not len(known):
            parts.append(f"{name}: no values.")
            continue
        first, last, found = known[0], known[-1], ys[known]
        parts.append(
            f"{name}: {ys[first]:.4g} at {x_label} {xs[first]:g}, lowest {found.min():.4g}, "
            f"highest {found.max():.4g}, {ys[last]:.4g} at {x_label} {xs[last]:g}."
        )
    return " ".join(parts)


def curve_svg(
    title: str,
    xs: Sequence[float],
    series: Mapping[str, Sequence[float | None]],
    x_label: str,
    y_label: str,
    *,
    width: int,
    height: int,
) -> str:
    """The chart for a page of about `width` CSS pixels. Values that are missing or not finite leave gaps."""
    x = np.array(xs, np.float64)
    lines = {name: _floats(ys) for name, ys in series.items()}
    frame, x_ticks, y_ticks = _layout(x, lines, width, height)
    body = [_grid(frame, x_ticks, y_ticks), _labels(frame, x_label, y_label)]
    body += [_raw_line(frame, x, ys, i) for i, ys in enumerate(lines.values())]
    body += [_smooth_line(frame, x, ys, i) for i, ys in enumerate(lines.values())]
    described = escape(summary(title, x, lines, x_label))
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{described}">'
        + "".join(body)
        + "</svg>"
    )


def _floats(ys: Sequence[float | None]) -> Floats:
    values = np.array([np.nan if y is None else y for y in ys], np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _layout(
    xs: Floats, lines: Mapping[str, Floats], width: int, height: int
) -> tuple[Frame, list[float], list[float]]:
    y_ticks = ticks(*_range(np.concatenate([*lines.values(), np.empty(0)])), max(3, height // 60))
    low, high = _range(xs)
    inside = [t for t in ticks(low, high, max(4, width // 110)) if low <= t <= high]
    longest = max(len(format_tick(t)) for t in y_ticks)
    left = round(34 + longest * 13 * CHARACTER)
    frame = Frame(
        width=width, height=height, x_range=(low, high), y_range=(y_ticks[0], y_ticks[-1]), left=left
    )
    return frame, inside, y_ticks


def _range(values: Floats) -> tuple[float, float]:
    """Lowest and highest finite value; wider where ticks of six digits could not tell them apart."""
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if high - low > 1e-4 * max(abs(low), abs(high)):
        return low, high
    margin = abs(low) / 2 or 0.5
    return low - margin, high + margin


def _grid(frame: Frame, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
    parts = []
    floor_y, right = frame.height - frame.bottom, frame.width - frame.right
    for value in y_ticks:
        y = f"{frame.y(value):.1f}"
        parts.append(f'<line class="grid" x1="{frame.left}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text x="{frame.left - 6}" y="{y}" dy="0.35em" text-anchor="end">{format_tick(value)}</text>'
        )
    for value in x_ticks:
        x = f"{frame.x(value):.1f}"
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{floor_y}" y2="{floor_y + 5}"/>')
        parts.append(f'<text x="{x}" y="{floor_y + 19}" text-anchor="middle">{format_tick(value)}</text>')
    parts.append(f'<path class="axis" d="M{frame.left} {frame.top}V{floor_y}H{right}"/>')
    return "".join(parts)


def _labels(frame: Frame, x_label: str, y_label: str) -> str:
    middle_x = (frame.left + frame.width - frame.right) / 2
    middle_y = (frame.top + frame.height - frame.bottom) / 2
    return "".join(
        f'<text class="label" text-anchor="middle" transform="{place}">{escape(label)}</text>'
        for label, place in (
            (x_label, f"translate({middle_x:.1f} {frame.height - 10})"),
            (y_label, f"translate(15 {middle_y:.1f}) rotate(-90)"),
        )
    )


def _raw_line(frame: Frame, xs: Floats, ys: Floats, index: int) -> str:
    if smoothing_window(len(ys)) == 1:
        return ""
    return f'<path class="raw s{index % NUM_STYLES}" d="{_path(frame, *thin(xs, ys))}"/>'


def _smooth_line(frame: Frame, xs: Floats, ys: Floats, index: int) -> str:
    return f'<path class="line s{index % NUM_STYLES}" d="{_path(frame, *thin(xs, smooth(ys)))}"/>'


def _path(frame: Frame, xs: Floats, ys: Floats) -> str:
    """Path data; a gap starts a new stroke, and a point alone becomes a dot."""
    parts, pen_up = [], True
    for x, y in zip(np.atleast_1d(frame.x(xs)), np.atleast_1d(frame.y(ys)), strict=True):
        if not (isfinite(x) and isfinite(y)):
            pen_up = True
            continue
        parts.append(f"M{x:.1f} {y:.1f}h0" if pen_up else f"L{x:.1f} {y:.1f}")
        pen_up = False
    return "".join(parts)
