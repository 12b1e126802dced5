"""Charts of estimates with intervals: one below the other, or along a numeric axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from adaptermix.plots.drawing import dot, fitted, line, mark, path, target, text, width_of
from adaptermix.plots.plot import Panel
from adaptermix.plots.scales import Axis, Scale

_ROW = 20
_LONG = 26  # lines that fit most screens
_WIDE = 520  # minimum width for numbers beside the marks
_LABELS = 0.36  # maximum share of the width
# By look: the color role, and whether the mark is filled.
LOOKS: dict[str, tuple[str, bool]] = {
    "better": ("better", True),
    "worse": ("worse", True),
    "unclear": ("reference", False),
    "chosen": ("subject", True),
    "finalist": ("reference", True),
    "dropped": ("reference", False),
}


@dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    Attributes:
        label: Label of the row.
        value: The value.
        low: Lower bound of the interval.
        high: Upper bound of the interval.
        look: One of ``LOOKS``.
        says: The value and interval as text.
        is_mean: Whether it is a mean of others, drawn as a diamond that spans its interval.
        at: Its position in charts along a numeric axis.
    """

    label: str
    value: float
    low: float
    high: float
    look: str
    says: str
    is_mean: bool = False
    at: float | None = None

    @property
    def color(self) -> str:
        """The color role of its look."""
        return LOOKS[self.look][0]

    @property
    def is_whole(self) -> bool:
        """Whether its value and interval are finite."""
        return all(map(isfinite, (self.value, self.low, self.high)))


Groups = Sequence[tuple[str, Sequence[Estimate]]]


def forest(
    groups: Groups,
    title: str,
    span: tuple[float, float],
    width: int,
    sides: tuple[str, str] = ("", ""),
) -> Panel:
    """Draw estimates one below the other, in groups.

    Args:
        groups: Estimates by the heading above them; an empty heading takes no space.
        title: Title of the axis.
        span: Range of the axis.
        width: Width of the panel, in pixels; a wide one shows numbers beside the marks.
        sides: Names of the sides left and right of zero; without them there is no zero line.
    """
    rows = [row for _, group in groups for row in group]
    is_wide = width >= _WIDE
    numbers = 12 + max((width_of(row.says) for row in rows), default=0) if is_wide else 8
    names = [*(row.label for row in rows), *(heading for heading, _ in groups)]
    labels = min(_LABELS * width, max(map(width_of, names), default=0) + 14)
    is_long = sum(len(group) + bool(heading) for heading, group in groups) > _LONG
    top = (20 if any(sides) else 2) + 16 * is_long
    parts, y = [], float(top)
    scale = Scale(*span, labels, width - numbers)
    for heading, group in groups:
        if heading:
            parts.append(text(heading, 0, y + 15, font_weight="bold"))
            y += _ROW
        for row in group:
            parts.append(_row(row, scale, y, width if is_wide else 0))
            y += _ROW
    axis = Axis(scale, title, is_signed=any(sides)).horizontal(top, y + 2, is_long=is_long)
    zero = _zero(scale, sides, (top - 2, y + 2), width)
    return Panel(width, y + 42, "".join([axis, *zero, *parts]))


def _zero(scale: Scale, sides: tuple[str, str], ends: tuple[float, float], width: int) -> list[str]:
    """Draw the line at zero, and label its sides."""
    if not any(sides):
        return []
    x, (left, right) = scale(0), sides
    beside = min(x + 8, width - width_of(f"{right} →") - 6)  # bold is wider
    end = min(x, beside - 4) - 8
    return [
        line((x, ends[0]), (x, ends[1]), stroke="ink", stroke_width=1.25),
        text(f"← {left}", end, 12, text_anchor="end", fill="worse", font_weight="bold"),
        text(f"{right} →", beside, 12, fill="better", font_weight="bold"),
    ]


def _row(row: Estimate, scale: Scale, top: float, numbers_at: int) -> str:
    middle = top + _ROW / 2
    bold = {"font_weight": "bold"} if row.is_mean else {}
    shapes = [
        target(0, top, scale.end, _ROW),
        text(fitted(row.label, scale.start - 8), 0, middle + 4, **bold),
    ]
    if row.is_whole:
        shapes.append(_diamond(row, scale, middle) if row.is_mean else _bar(row, scale, middle))
        if numbers_at:
            place = {"text_anchor": "end", "fill": "ink" if row.is_mean else "faint", **bold}
            shapes.append(text(row.says, numbers_at, middle + 4, **place))
    return mark(f"{row.label}: {row.says}", *shapes)


def _bar(row: Estimate, scale: Scale, y: float) -> str:
    color, is_filled = LOOKS[row.look]
    ends = (scale(row.low), y), (scale(row.high), y)
    bar = line(*ends, stroke=color, stroke_width=2)
    return bar + dot(scale(row.value), y, color, is_filled=is_filled)


def _diamond(row: Estimate, scale: Scale, y: float) -> str:
    left, middle, right = (scale(value) for value in (row.low, row.value, row.high))
    corners = [(left, y), (middle, y - 6), (right, y), (middle, y + 6)]
    fill = row.color if LOOKS[row.look][1] else "paper"
    return path(corners, "Z", fill=fill, stroke=row.color, stroke_width=1.75)


def along(
    rows: Sequence[Estimate],
    titles: tuple[str, str],
    span: tuple[float, float],
    width: int,
    level: Estimate | None = None,
) -> Panel:
    """Draw estimates along a numeric axis, and a line through the finalists.

    Args:
        rows: The estimates, each with ``at``.
        titles: Titles of the x axis and the y axis.
        span: Range of the y axis.
        width: Width of the panel, in pixels.
        level: An estimate without a position, drawn as a dashed line.
    """
    whole = [row for row in rows if row.is_whole and row.at is not None]
    places = sorted({row.at for row in whole if row.at is not None}) or [0.0]
    room = (places[-1] - places[0]) * 0.08 or 0.5
    across = Scale(places[0] - room, places[-1] + room, 44, width - 8)
    up = Scale(*span, 190, 26)
    is_signed = any(row.low < 0 for row in whole)
    parts = [
        Axis(up, titles[1], is_signed=is_signed).vertical(across.start, across.end),
        Axis(across, titles[0], values=places).horizontal(190, 190),
    ]
    if up.low <= 0 <= up.high:
        parts.append(line((across.start, up(0)), (across.end, up(0)), stroke="ink"))
    if level is not None and level.is_whole:
        y, dashes = up(level.value), {"stroke_dasharray": "5 4", "stroke": "ink"}
        drawn = line((across.start, y), (across.end, y), **dashes)
        name = text(level.label, across.start + 4, y + 13, fill="faint")
        parts.append(mark(f"{level.label}: {level.says}", drawn, name))
    finalists = sorted(
        (across(row.at), up(row.value))
        for row in whole
        if row.at is not None and row.look != "dropped"
    )
    if len(finalists) > 1:
        parts.append(path(finalists, fill="none", stroke="reference", stroke_opacity=0.6))
    for row in whole:
        x, (color, is_filled) = across(row.at or 0.0), LOOKS[row.look]
        bar = line((x, up(row.low)), (x, up(row.high)), stroke=color, stroke_width=2)
        shapes = target(x - 8, 26, 16, 164), bar, dot(x, up(row.value), color, is_filled=is_filled)
        parts.append(mark(f"{row.label}: {row.says}", *shapes))
    return Panel(width, 228, "".join(parts))
