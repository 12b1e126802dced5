"""Plots: Vega-Lite specifications made with Altair, drawn as SVG and PNG without a browser.

Text and lines have the color of the page around them (``currentColor``), and marks have colors that
stand out on white and on near-black, so that one drawing serves light and dark pages. Names come
from files and may hold anything: they reach a plot as data only, and are escaped where it is drawn.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import altair as alt
import vl_convert

if TYPE_CHECKING:
    from adaptermix.tasks.metrics.significance import Interval

# Contrast of 3:1 and more to white and to #16181d. The first one is the baseline's.
PALETTE = ("#7d838c", "#3b82c4", "#d9731f", "#3a9a57", "#c65b9a", "#8b6fd1", "#a98718", "#2f97a3")
_WIDTH = 380  # of the plotted area; a phone shows it without shrinking the letters much
_SCATTER_HEIGHT = 280
_SCATTER_MARGIN = 20  # of its points, in pixels
_LABEL_PLACES = ((6, -5), (-6, -5), (6, 6), (-6, 6), (0, -11), (0, 12))  # from the point
_ALIGN: dict[int, Literal["left", "center", "right"]] = {6: "left", 0: "center", -6: "right"}
_LETTER = 6.5  # about how wide one is, in pixels
_CONFIG: dict[str, Any] = {
    "background": None,
    "font": "Arial, Helvetica, sans-serif",  # what the width of labels is measured in
    "padding": {"left": 8, "right": 16, "top": 4, "bottom": 4},
    "view": {"stroke": None},
    "axis": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "domainColor": "currentColor",
        "tickColor": "currentColor",
        "gridColor": "currentColor",
        "gridOpacity": 0.15,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 220,
    },
    "legend": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "orient": "top",
        "columns": 3,
        "columnPadding": 28,
        "labelLimit": 150,
    },
    "point": {"opacity": 1},
    "header": {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12},
}
_ID = re.compile(r'\bid="([^"]+)"')


@dataclass(frozen=True)
class Plot:
    """A plot that can be drawn.

    Attributes:
        name: Stem of its files.
        title: What it shows, as a heading.
        caption: How to read it.
        spec: A Vega-Lite specification, data included.
    """

    name: str
    title: str
    caption: str
    spec: Mapping[str, Any]

    @cached_property
    def svg(self) -> str:
        """The plot as SVG whose ids are unlike those of other plots on the same page."""
        drawn = str(vl_convert.vegalite_to_svg(json.dumps(self.spec)))
        for number, found in enumerate(_ID.findall(drawn)):
            own = f"{self.name}-{number}"  # Vega counts on from plot to plot
            drawn = drawn.replace(f'id="{found}"', f'id="{own}"')
            drawn = drawn.replace(f"url(#{found})", f"url(#{own})")
        return drawn

    def png(self) -> bytes:
        """Draw it in black on white."""
        spec = json.dumps({**self.spec, "background": "white"})
        return bytes(vl_convert.vegalite_to_png(spec.replace("currentColor", "black"), scale=2))

    def write(self, folder: Path) -> None:
        """Write ``NAME.svg`` and ``NAME.png``."""
        (folder / f"{self.name}.svg").write_text(self.svg, encoding="utf-8")
        (folder / f"{self.name}.png").write_bytes(self.png())


@dataclass(frozen=True)
class PlottedScore:
    """A score to plot.

    Attributes:
        name: What it is the score of.
        score: The score and its interval.
        weight: Where it stands on the axis of weights, for those with one.
        is_chosen: Drawn in another color.
        is_faint: Drawn faintly.
    """

    name: str
    score: "Interval"
    weight: float | None
    is_chosen: bool
    is_faint: bool


def search_plot(points: Sequence[PlottedScore], label: str, name: str = "search") -> Plot:
    """Plot the scores of a search with their intervals.

    Against weights where all have one; otherwise one below the other.

    Args:
        points: The scores.
        label: What the scores are.
        name: Stem of its files.
    """
    states = ("chosen", "tried on all examples", "left the race early")
    rows = [
        {
            "name": point.name,
            "weight": point.weight,
            "score": point.score.value,
            "low": point.score.low,
            "high": point.score.high,
            "state": states[0 if point.is_chosen else 2 if point.is_faint else 1],
        }
        for point in points
    ]
    color = alt.Color(
        "state:N", title=None, scale=alt.Scale(domain=states, range=[PALETTE[2], *PALETTE[1::-1]])
    )
    score: dict[str, Any] = {"title": label, "scale": alt.Scale(zero=False)}
    if all(point.weight is not None for point in points):
        ticks = alt.Axis(
            values=sorted({point.weight or 0.0 for point in points}),
            labelExpr="format(datum.value, '.4~g')",  # an axis' own format rounds 0.85 to 0.8
            labelOverlap="greedy",
            labelSeparation=4,
        )
        scale = alt.Scale(padding=12, nice=False)
        place = alt.X("weight:Q", title="weight of the first adapter", axis=ticks, scale=scale)
        marks = (
            _base(rows)
            .mark_rule(strokeWidth=2)
            .encode(x=place, y=alt.Y("low:Q", **score), y2="high:Q"),
            _base(rows).mark_point(filled=True, size=70).encode(x=place, y=alt.Y("score:Q")),
        )
        height: Any = 260
    else:
        row = alt.Y("name:N", sort=None, title=None)
        marks = (
            _base(rows)
            .mark_rule(strokeWidth=2)
            .encode(y=row, x=alt.X("low:Q", **score), x2="high:Q"),
            _base(rows).mark_point(filled=True, size=70).encode(y=row, x=alt.X("score:Q")),
        )
        height = alt.Step(22)
    chart = alt.layer(*(mark.encode(color=color) for mark in marks)).properties(
        width=_WIDTH, height=height
    )
    return _plot(name, "Dev score against weight", "Bars are 95% intervals.", chart)


def score_bars(
    rows: Sequence[Mapping[str, Any]],
    colors: Mapping[str, str],
    label: str,
    name: str,
    caption: str = "",
) -> Plot:
    """Plot every system's score, language by language.

    Args:
        rows: ``lang``, ``system`` and ``score``, in the order to show.
        colors: Color of every system, in the order of the bars.
        label: Name and unit of the score.
        name: Stem of its files.
        caption: How to read it.
    """
    chart = (
        _base(rows)
        .mark_bar()
        .encode(
            y=alt.Y("lang:N", sort=None, title=None),
            yOffset=alt.YOffset("system:N", sort=list(colors)),
            x=alt.X("score:Q", title=label),
            color=_color("system", colors),
        )
        .properties(width=_WIDTH, height=alt.Step(11))
    )
    return _plot(name, "Scores by language", caption, chart)


def difference_intervals(
    rows: Sequence[Mapping[str, Any]],
    colors: Mapping[str, str],
    label: str,
    name: str,
    notes: tuple[str, str],
) -> Plot:
    """Plot differences to the baseline with their intervals, and a line at zero.

    Args:
        rows: ``over`` (a language or group), ``system``, ``difference``, ``low``, ``high``.
        colors: Color of every system.
        label: What is subtracted from what, and the unit.
        name: Stem of its files.
        notes: Which system is the baseline and why, and what the bars are.
    """
    offset = alt.YOffset("system:N", sort=list(colors))
    place = {"y": alt.Y("over:N", sort=None, title=None), "yOffset": offset}
    color = _color("system", colors)
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule(
        color="currentColor", opacity=0.6, strokeDash=[4, 3]
    )
    bars = _base(rows).mark_rule(strokeWidth=2)
    points = _base(rows).mark_point(filled=True, size=45)
    chart = alt.layer(
        zero.encode(x=alt.X("zero:Q", title=label)),
        bars.encode(x=alt.X("low:Q", title=label), x2="high:Q", color=color, **place),
        points.encode(x="difference:Q", color=color, **place),
    ).properties(width=_WIDTH, height=alt.Step(11))
    baseline, bars_are = notes
    caption = f"{baseline} Points right of the dashed line are better. Bars: {bars_are}."
    return _plot(name, "Before and after", caption, chart)


def lines(
    rows: Sequence[Mapping[str, Any]],
    colors: Mapping[str, str],
    axes: tuple[str, str],
    name: str,
    texts: tuple[str, str],
) -> Plot:
    """Plot lines over layers.

    Args:
        rows: ``layer``, ``value``, ``line`` (which color), and perhaps ``kind`` (which dashes) and
            ``part`` (which of several panels).
        colors: Color of every line.
        axes: Titles of the two axes.
        name: Stem of its files.
        texts: Title and caption.
    """
    encoding: dict[str, Any] = {
        "x": alt.X("layer:Q", title=axes[0], axis=alt.Axis(tickMinStep=1, format="d")),
        "y": alt.Y("value:Q", title=axes[1]),
        "color": _color("line", colors),
    }
    kinds = list(dict.fromkeys(row["kind"] for row in rows if "kind" in row))
    if kinds:
        dashes = alt.Scale(domain=kinds, range=[[1, 0], [5, 4], [2, 2]][: len(kinds)])
        encoding["strokeDash"] = alt.StrokeDash(
            "kind:N",
            title=None,
            scale=dashes,
            legend=None,  # Vega draws no line in it beside points; the caption tells
        )
    panels = list(dict.fromkeys(row["part"] for row in rows if "part" in row))
    width = _WIDTH // 2 - 20 if panels else _WIDTH
    chart: Any = (
        _base(rows)
        .mark_line(point={"size": 26, "filled": True}, strokeWidth=2)
        .encode(**encoding)
        .properties(width=width, height=230)
    )
    if panels:
        chart = chart.facet(column=alt.Column("part:N", title=None, sort=panels))
    return _plot(name, *texts, chart)


def heat_map(
    rows: Sequence[Mapping[str, Any]],
    axes: tuple[str, str, str],
    name: str,
    texts: tuple[str, str],
    span: tuple[float, float],
) -> Plot:
    """Plot a number for every ordered pair of languages.

    Args:
        rows: ``source``, ``target`` and ``value``, in the order to show.
        axes: Titles of the vertical axis, of the horizontal one, and of the colors.
        name: Stem of its files.
        texts: Title and caption.
        span: Where the scale of colors begins and ends; below 0, it has two hues that part there.
    """
    sources = list(dict.fromkeys(row["source"] for row in rows))
    scale = alt.Scale(scheme="purpleorange" if span[0] < 0 else "viridis", domain=list(span))
    chart = (
        _base(rows)
        .mark_rect()
        .encode(
            x=alt.X("target:N", sort=sources, title=axes[1], axis=alt.Axis(orient="top")),
            y=alt.Y("source:N", sort=sources, title=axes[0]),
            color=alt.Color("value:Q", title=axes[2], scale=scale),
        )
        .properties(width=_side(len(sources)), height=_side(len(sources)))
    )
    return _plot(name, *texts, chart)


def scatter(
    rows: Sequence[Mapping[str, Any]],
    axes: tuple[str, str],
    name: str,
    texts: tuple[str, str],
) -> Plot:
    """Plot named points and the least-squares line through them.

    Args:
        rows: ``x``, ``y`` and ``name``.
        axes: Titles of the two axes.
        name: Stem of its files.
        texts: Title and caption.
    """
    scale = alt.Scale(zero=False, nice=False, padding=_SCATTER_MARGIN)
    x, y = alt.X("x:Q", title=axes[0], scale=scale), alt.Y("y:Q", title=axes[1], scale=scale)
    points = _base(rows).mark_point(filled=True, size=55, color=PALETTE[1]).encode(x, y)
    labeled = _placed([*rows], _WIDTH, _SCATTER_HEIGHT)
    names = [
        _base(some)
        .mark_text(align=_ALIGN[dx], dx=dx, dy=dy, color="currentColor")
        .encode(x, y, text="name:N")
        for (dx, dy), some in labeled.items()
    ]
    trend = (
        _base(rows)
        .transform_regression("x", "y")
        .mark_line(color="currentColor", opacity=0.5, strokeDash=[4, 3])
    )
    chart = alt.layer(trend.encode(x, y), points, *names).properties(
        width=_WIDTH, height=_SCATTER_HEIGHT
    )
    return _plot(name, *texts, chart)


def _placed(
    rows: Sequence[Mapping[str, Any]], width: int, height: int
) -> dict[tuple[int, int], list[Mapping[str, Any]]]:
    """Sort points by where their names go: where these cover fewest other points and names."""
    spots = _in_pixels(rows, width, height) if rows else []
    covered = [(x - 4, y - 4, x + 4, y + 4) for x, y in spots]
    placed: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for row, (x, y) in zip(rows, spots, strict=True):
        size = _LETTER * len(str(row["name"]))
        boxes = {
            (dx, dy): (left, y + dy - 6, left + size, y + dy + 6)
            for dx, dy in _LABEL_PLACES
            for left in [x + dx - size * {6: 0, 0: 0.5, -6: 1}[dx]]
        }
        place = min(boxes, key=lambda place: sum(_meet(boxes[place], box) for box in covered))
        covered.append(boxes[place])
        placed.setdefault(place, []).append(row)
    return placed


def _in_pixels(
    rows: Sequence[Mapping[str, Any]], width: int, height: int
) -> list[tuple[float, float]]:
    """Return about where points are drawn, from the left and from the top."""
    sides = []
    for key, length in (("x", width), ("y", height)):
        values = [row[key] for row in rows]
        least, span = min(values), (max(values) - min(values)) or 1.0
        shares = [(value - least) / span for value in values]
        way = shares if key == "x" else [1 - share for share in shares]
        sides.append([_SCATTER_MARGIN + (length - 2 * _SCATTER_MARGIN) * share for share in way])
    return list(zip(*sides, strict=True))


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two boxes (left, top, right, bottom) overlap."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def colors_of(names: Sequence[str]) -> dict[str, str]:
    """Return a color for every name, in their order; the first is the baseline's."""
    return dict(zip(names, cycle(PALETTE), strict=False))


def _side(cells: int) -> int:
    return max(160, min(440, 30 * cells))


def _color(field: str, colors: Mapping[str, str]) -> alt.Color:
    scale = alt.Scale(domain=list(colors), range=list(colors.values()))
    longest = max(map(len, colors), default=0)
    columns = 3 if longest <= 20 else 2 if longest <= 30 else 1  # as wide as their names need
    legend = alt.Legend(columns=columns, labelLimit=420 // columns)
    return alt.Color(f"{field}:N", title=None, scale=scale, legend=legend)


def _base(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    """Start a chart of some rows, without those that hold no number where one should be."""
    whole = [
        dict(row)
        for row in rows
        if not any(isinstance(v, float) and not math.isfinite(v) for v in row.values())
    ]
    return alt.Chart(alt.InlineData(values=whole))


def _plot(name: str, title: str, caption: str, chart: Any) -> Plot:
    spec = chart.to_dict(validate=False) | {"config": _CONFIG}
    return Plot(name, title, caption, spec)
