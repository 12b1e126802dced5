"""Charts of points, curves and matrices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import numpy as np

from adaptermix.plots.drawing import (
    dot,
    element,
    fitted,
    line,
    mark,
    path,
    target,
    text,
    width_of,
)
from adaptermix.plots.intervals import LOOKS
from adaptermix.plots.plot import Panel
from adaptermix.plots.scales import Axis, Scale, number, span_of

SMALL = 264  # width of a panel in a row; a large screen fits four
LARGE = 420
_ROW = 18
_SAMPLES, _SEED = 1000, 12345
_PLACES: tuple[tuple[int, int, Literal["start", "middle", "end"]], ...] = (
    *((8, 4, "start"), (-8, 4, "end"), (7, -6, "start"), (-7, -6, "end")),
    *((7, 14, "start"), (-7, 14, "end"), (0, -9, "middle"), (0, 18, "middle")),
)  # offsets of a label from its point


@dataclass(frozen=True)
class Change:
    """A value before and after; ``look`` is one of ``LOOKS`` and sets the color."""

    label: str
    before: float
    after: float
    look: str
    says: str


def changes(rows: Sequence[Change], title: str, span: tuple[float, float]) -> Panel:
    """Draw each row's value before (hollow) and after (filled), joined by a line."""
    labels = min(0.4 * SMALL, max((width_of(row.label) for row in rows), default=0) + 14)
    scale = Scale(*span, labels, SMALL - 10)
    bottom = _ROW * len(rows) + 2
    parts = [Axis(scale, title).horizontal(0, bottom)]
    for at, row in enumerate(rows):
        y = _ROW * (at + 0.5)
        name = text(fitted(row.label, labels - 8), 0, y + 4)
        shapes = [target(0, y - _ROW / 2, SMALL, _ROW), name]
        if isfinite(row.before) and isfinite(row.after):
            ends = (scale(row.before), y), (scale(row.after), y)
            color = LOOKS[row.look][0]
            shapes.append(line(*ends, stroke=color, stroke_width=2))
            shapes.append(dot(*ends[0], "reference", is_filled=False))
            shapes.append(dot(*ends[1], color))
        parts.append(mark(f"{row.label}: {row.says}", *shapes))
    return Panel(SMALL, bottom + 40, "".join(parts))


@dataclass(frozen=True)
class Curve:
    """A curve, optionally with an interval around each point.

    Attributes:
        name: Name of the curve.
        points: Coordinates (x, y).
        role: ``subject``, or ``reference`` for the curve to compare with.
        band: Lower and upper bound of each point, or empty.
    """

    name: str
    points: Sequence[tuple[float, float]]
    role: Literal["subject", "reference"] = "subject"
    band: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Space:
    """The axes that panels share: their titles and ranges."""

    x_title: str
    y_title: str
    x_span: tuple[float, float]
    y_span: tuple[float, float]
    is_signed: bool

    @classmethod
    def of(cls, titles: tuple[str, str], curves: Sequence[Curve], *also: float) -> "Space":
        """Return the space that fits all curves and further values of the y axis."""
        places = [x for curve in curves for x, _ in curve.points]
        ends = [end for curve in curves for interval in curve.band for end in interval]
        values = [y for curve in curves for _, y in curve.points]
        is_signed = any(value < 0 for value in values)
        return cls(*titles, span_of(places), span_of([*values, *ends], *also), is_signed)


def curves_chart(curves: Sequence[Curve], space: Space, marked: float | None = None) -> Panel:
    """Draw curves, and a vertical line at the marked layer."""
    bottom = 160
    across = Scale(*space.x_span, 40, SMALL - 8)
    up = Scale(*space.y_span, bottom, 26)
    parts = [
        Axis(up, space.y_title, is_signed=space.is_signed).vertical(across.start, across.end),
        Axis(across, space.x_title).horizontal(bottom, bottom),
    ]
    if up.low <= 0 <= up.high:
        parts.append(line((across.start, up(0)), (across.end, up(0)), stroke="ink"))
    if marked is not None and space.x_span[0] < marked < space.x_span[1]:
        x = across(marked)
        aligned = line((x, 26), (x, bottom), stroke="faint", stroke_dasharray="3 3")
        parts.append(mark(f"aligned at layer {marked:g}", target(x - 4, 26, 8, 134), aligned))
    for curve in sorted(curves, key=lambda curve: curve.role):  # the subject on top
        parts.append(_curve(curve, across, up))
    return Panel(SMALL, bottom + 38, "".join(parts))


def _curve(curve: Curve, across: Scale, up: Scale) -> str:
    whole = [(x, y) for x, y in curve.points if isfinite(y)]
    spots = [(across(x), up(y)) for x, y in whole]
    if not spots:
        return ""
    dashes = {"stroke_dasharray": "5 3"} if curve.role == "reference" else {}
    parts = [_band(curve, across, up)]
    parts.append(path(spots, fill="none", stroke=curve.role, stroke_width=2, **dashes))
    for (x, y), (at, value) in zip(spots, whole, strict=True):
        hit = element("circle", cx=x, cy=y, r=6, fill="transparent")
        seen = element("circle", cx=x, cy=y, r=2.5, fill=curve.role)
        parts.append(mark(f"{curve.name}, {at:g}: {value:.4g}", hit, seen))
    return "".join(parts)


def _band(curve: Curve, across: Scale, up: Scale) -> str:
    ends = [
        (across(x), up(low), up(high))
        for (x, _), (low, high) in zip(curve.points, curve.band, strict=False)
        if isfinite(low) and isfinite(high)
    ]
    if not ends:
        return ""
    around = [(x, low) for x, low, _ in ends] + [(x, high) for x, _, high in reversed(ends)]
    return path(around, "Z", fill=curve.role, fill_opacity=0.18)


def heat_map(
    cells: Mapping[tuple[str, str], float], titles: tuple[str, str], title: str, top: float
) -> Panel:
    """Draw gains and losses by row and column; zero has no color.

    Args:
        cells: Values by row and column, in display order.
        titles: Titles of rows and columns.
        title: Title of the color scale.
        top: Absolute value of the strongest color.
    """
    rows, columns = (list(dict.fromkeys(key[side] for key in cells)) for side in (0, 1))
    columns.sort(key=lambda column: rows.index(column) if column in rows else len(rows))
    labels = min(120.0, max((width_of(row) for row in rows), default=0) + 10)
    side = max(14.0, min(34.0, (LARGE - labels) / max(len(columns), 1)))
    wide = max(
        side, min(90.0, max(map(width_of, columns), default=0) + 8) if len(columns) < 4 else 0
    )
    head = 38
    parts = [text(f"{titles[0]} ↓   {titles[1]} →", 0, 12, fill="faint")]
    for at, column in enumerate(columns):
        x = labels + wide * (at + 0.5)
        parts.append(text(fitted(column, wide + 2), x, head - 6, text_anchor="middle"))
    for at, row in enumerate(rows):
        place = head + side * (at + 0.5) + 4
        parts.append(text(fitted(row, labels - 6), labels - 6, place, text_anchor="end"))
    for (row, column), value in cells.items():
        if isfinite(value):
            corner = labels + wide * columns.index(column), head + side * rows.index(row)
            shapes = _cell(corner, (wide, side), value / top, value)
            says = f"{row} → {column}: {number(value, 1, is_signed=True)}"
            parts.append(mark(says, shapes))
    bottom = head + side * len(rows)
    width = max(LARGE, round(labels + wide * len(columns) + 4))
    return Panel(width, bottom + 58, "".join(parts) + _legend(title, top, bottom + 20))


def _cell(
    corner: tuple[float, float], size: tuple[float, float], strength: float, value: float
) -> str:
    (x, y), (width, height) = corner, size
    fill = "gain" if strength > 0 else "loss"
    opacity = f"{min(1.0, abs(strength)):.2f}"
    drawn = element(
        "rect", x=x, y=y, width=width - 1, height=height - 1, fill=fill, fill_opacity=opacity
    )
    frame = {"fill": "none", "stroke": "grid"}
    drawn += element("rect", x=x, y=y, width=width - 1, height=height - 1, **frame)
    if height < 24:
        return drawn
    place = {"text_anchor": "middle", "font_size": 11}
    words = number(value, 0, is_signed=True)
    return drawn + text(words, x + width / 2 - 0.5, y + height / 2 + 3.5, **place)


def _legend(title: str, top: float, y: float) -> str:
    parts = [text(title, 0, y + 30, fill="faint")]
    for at, share in enumerate((-1.0, -0.5, 0.0, 0.5, 1.0)):
        digits = 0 if top >= 4 else 1
        shape = _cell((at * 44.0, y), (44, 14), share, 0)
        words = number(share * top, digits, is_signed=True)
        place = {"text_anchor": "middle", "font_size": 11}
        parts.append(shape + text(words, at * 44.0 + 22, y + 11, **place))
    return "".join(parts)


@dataclass(frozen=True)
class Named:
    """A point with a name."""

    name: str
    x: float
    y: float


def scatter(points: Sequence[Named], titles: tuple[str, str]) -> Panel:
    """Draw named points, the least-squares line, and the band of lines fitted to resamples."""
    whole = [p for p in points if isfinite(p.x) and isfinite(p.y)]
    bottom = 290
    across = Scale(*span_of(p.x for p in whole), 44, LARGE - 12)
    up = Scale(*span_of(p.y for p in whole), bottom, 26)
    parts = [
        Axis(up, titles[1]).vertical(across.start, across.end),
        Axis(across, titles[0]).horizontal(26, bottom),
    ]
    if len(whole) > 2:
        grid = np.linspace(across.low, across.high, 40)
        fit, lows, highs = _lines(whole, grid)
        spots = [
            [
                (across(x), min(max(up(y), up.end), up.start))
                for x, y in zip(grid, side, strict=True)
            ]
            for side in (lows, highs, fit)
        ]
        area = [*spots[0], *reversed(spots[1])]
        parts.append(path(area, "Z", fill="subject", fill_opacity=0.14))
        parts.append(path(spots[2], fill="none", stroke="subject", stroke_dasharray="5 4"))
    spots_of_points = [(across(p.x), up(p.y)) for p in whole]
    labels = placed([p.name for p in whole], spots_of_points, (44, bottom))
    for point, (x, y), label in zip(whole, spots_of_points, labels, strict=True):
        says = f"{point.name}: {titles[0]} {point.x:.4g}, {titles[1]} {point.y:.4g}"
        parts.append(mark(says, dot(x, y, "subject"), label))
    return Panel(LARGE, bottom + 40, "".join(parts))


def _lines(points: Sequence[Named], grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the least-squares line on a grid, and the 95% band of lines fitted to resamples."""
    values = np.array([(p.x, p.y) for p in points])
    drawn = np.random.default_rng(_SEED).integers(len(values), size=(_SAMPLES, len(values)))
    through = _line(values[np.newaxis], grid)[0]
    low, high = np.percentile(_line(values[drawn], grid), [2.5, 97.5], axis=0)
    return through, low, high


def _line(samples: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Fit a line to every sample [samples points 2], and return it on the grid."""
    x, y = samples[..., 0], samples[..., 1]
    x_mean, y_mean = x.mean(axis=1, keepdims=True), y.mean(axis=1, keepdims=True)
    spread = ((x - x_mean) ** 2).sum(axis=1, keepdims=True)
    slope = ((x - x_mean) * (y - y_mean)).sum(axis=1, keepdims=True) / np.maximum(spread, 1e-12)
    fitted_lines: np.ndarray = y_mean + slope * (grid - x_mean)
    return fitted_lines


def placed(
    names: Sequence[str], spots: Sequence[tuple[float, float]], corner: tuple[float, float]
) -> list[str]:
    """Return a label for each point that overlaps nothing, or an empty one if there is no room.

    Labels stay to the right of the plot area's lower left corner, and above it.
    """
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in spots]
    labels = []
    for name, (x, y) in zip(names, spots, strict=True):
        size, label = width_of(name), ""
        for dx, dy, anchor in _PLACES:
            left = x + dx - size * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
            box = (left, y + dy - 10, left + size, y + dy + 3)
            is_inside = left >= corner[0] and left + size <= LARGE and y + dy < corner[1]
            if is_inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                label = text(name, x + dx, y + dy, text_anchor=anchor)
                break
        labels.append(label)
    return labels


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two boxes (left, top, right, bottom) overlap."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
