"""Scales, marks and charts: what is drawn is where its value is, escaped, and on hover."""

import re
import runpy
from math import inf, nan
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import vl_convert

from adaptermix.plots.charts import (
    Change,
    Curve,
    Named,
    Space,
    changes,
    curves_chart,
    heat_map,
    placed,
    scatter,
)
from adaptermix.plots.drawing import PALETTE, colored, fitted, palette_css, text, width_of, wrapped
from adaptermix.plots.intervals import Estimate, along, forest
from adaptermix.plots.plot import Panel, Plot, titled_panel
from adaptermix.plots.scales import Axis, Scale, around_zero, number, span_of

ROOT = Path(__file__).parents[2]
HOSTILE = "</svg><script>alert('1')</script>"


def drawn(panel):
    """The elements of a panel, as a parser of XML sees them."""
    return ElementTree.fromstring(f"<svg>{panel.marks}</svg>")


def hovers(panel):
    return [title.text for title in drawn(panel).iter("title")]


def words(panel):
    return [element.text for element in drawn(panel).iter("text")]


def estimate(label="cy", value=1.0, look="better", **more):
    return Estimate(label, value, value - 1, value + 1, look, f"{value:+.1f}", **more)


def luminance(color):
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_colors_can_be_told_from_the_page_and_read(theme):
    colors = {role: pair[theme] for role, pair in PALETTE.items()}
    paper = colors["paper"]
    assert all(contrast(colors[role], paper) >= 4.5 for role in ("ink", "faint"))
    marks = ("reference", "subject", "better", "worse")
    assert all(contrast(colors[role], paper) >= 3 for role in marks)
    assert all(contrast(colors["ink"], colors[cell]) >= 4.5 for cell in ("gain", "loss"))


def test_a_page_gets_roles_and_a_file_gets_colors():
    mark = text("a", 0, 0, fill="better")
    assert 'fill="var(--plot-better)"' in mark
    assert 'fill="#1f66ad"' in colored(mark, "light")
    assert 'fill="#6aa9e9"' in colored(mark, "dark")
    assert palette_css().count("--plot-better:#1f66ad;") == 2  # light, and on paper
    assert "prefers-color-scheme:dark" in palette_css()


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (-0.021, 0.02, [-0.02, -0.01, 0, 0.01, 0.02]),
        (41, 59, [45, 50, 55]),
        (0, 1e-13, [0, 2e-14, 4e-14, 6e-14, 8e-14, 1e-13]),
        (-3e-300, 0, [-3e-300, -2e-300, -1e-300, 0]),
        (0, 1e9, [0, 2e8, 4e8, 6e8, 8e8, 1e9]),
    ],
)
def test_ticks_are_round_and_inside(low, high, ticks):
    assert Scale(low, high, 0, 220).ticks(44) == ticks


@pytest.mark.parametrize("values", [(1, 1 + 2**-52), (0, 1e-13), (0, 1e-300), (7, 7)])
def test_an_axis_is_drawn_however_small_its_range_is(values):
    axis = Axis(Scale(*span_of(values), 0, 220), "cosine")
    assert "cosine" in axis.horizontal(0, 100) and "cosine" in axis.vertical(0, 100)


@pytest.mark.parametrize("room", [10, 44, 400])
def test_an_axis_has_few_ticks_however_long_it_is(room):
    for high in (0.03, 1.0, 7.0, 250.0):
        assert 2 <= len(Scale(0, high, 0, 5000).ticks(room)) <= 9


def test_a_short_axis_has_two_ticks_with_the_digits_of_their_step():
    axis = Axis(Scale(0.806, 0.894, 0, 70), "COMET")
    labels = re.findall(r">([^<>]+)</text>", axis.horizontal(0, 10))
    assert labels == ["0.82", "0.86", "COMET"]
    tick = Axis(Scale(1, 1 + 2**-52, 0, 70), "one")  # equal numbers, which are one tick
    assert {float(text) for _, text in tick._labels(36)} <= {1.0, 1 + 2**-52}


def test_a_scale_is_straight_in_both_directions():
    scale = Scale(10, 20, 100, 0)
    assert [scale(value) for value in (10, 15, 20)] == [100, 50, 0]


def test_spans_hold_all_numbers_and_ignore_others():
    low, high = span_of([1.0, nan, inf, 3.0])
    assert 0.8 < low < 1.0
    assert 3.0 < high < 3.2
    assert span_of([]) == (-1.0, 1.0)
    low, high = around_zero([4.0, 10.0])
    assert low < -2.5, "the side without values has room for its word"


def test_numbers_have_a_real_minus_and_no_minus_zero():
    written = [number(v, 1, is_signed=True) for v in (1.25, -1.0, -0.01, 0)]
    assert written == ["+1.2", "\N{MINUS SIGN}1.0", "0.0", "0.0"]


def test_weights_stand_below_a_plot_as_they_are():
    axis = Axis(Scale(0, 1, 0, 700), "weight", values=(0.0, 0.8, 0.85, 0.9, 1.0))
    labels = re.findall(r">([^<>]+)</text>", axis.horizontal(0, 10))
    assert labels == ["0", "0.8", "0.85", "0.9", "1", "weight"]
    crowded = Axis(Scale(0, 1, 0, 100), "weight", values=(0.0, 0.8, 0.85, 0.9, 1.0))
    assert re.findall(r">([^<>]+)</text>", crowded.horizontal(0, 10)) == ["0", "0.8", "1", "weight"]


def test_texts_are_cut_and_broken_to_a_width():
    assert fitted("short", 100) == "short"
    assert fitted("a" * 100, 60).endswith("a…")
    assert width_of(fitted("日本語" * 20, 60)) <= 60
    assert wrapped("one two three", 50) == ["one two", "three"]
    name = "a-merge-with-quite-a-long-name-of-its-own"
    lines = wrapped(name, 150)
    assert "".join(lines) == name, "a name is broken at its hyphens"
    assert max(map(width_of, lines)) <= 150


def test_a_forest_has_a_row_each_and_says_its_numbers():
    groups = [
        ("aligned", [estimate("cy", 2.0), estimate("sw", -2.0, "worse")]),
        ("all", [estimate("mean of 2", 0.0, "unclear", is_mean=True)]),
    ]
    panel = forest(groups, "points", (-4, 4), 640, ("worse", "better"))
    assert hovers(panel) == ["cy: +2.0", "sw: -2.0", "mean of 2: +0.0"]
    circles = list(drawn(panel).iter("circle"))
    assert [c.get("fill") for c in circles] == ["var(--plot-better)", "var(--plot-worse)"]
    assert float(circles[0].get("cx")) > float(circles[1].get("cx"))
    (diamond,) = drawn(panel).iter("path")
    assert diamond.get("fill") == "var(--plot-paper)", "what is unclear is hollow"
    assert {"aligned", "all", "← worse", "better →", "+2.0"} <= set(words(panel))
    assert "+2.0" not in words(forest(groups, "points", (-4, 4), 300)), "no room for numbers"


def test_headings_of_a_forest_end_before_its_zero_line():
    heading = "a heading longer than every label"
    panel = forest([(heading, [estimate()])], "points", (0, 4), 640, ("worse", "better"))
    lines = [line for line in drawn(panel).iter("line") if line.get("stroke") == "var(--plot-ink)"]
    (zero,) = (line for line in lines if line.get("x1") == line.get("x2"))
    assert float(zero.get("x1")) > width_of(heading)


@pytest.mark.parametrize(("rows", "times"), [(20, 1), (40, 2)])
def test_a_forest_longer_than_a_screen_has_tick_values_above_it_too(rows, times):
    panel = forest(
        [("", [estimate(value=0.5)] * rows)], "points", (-1, 2), 640, ("worse", "better")
    )
    assert words(panel).count("+1.0") == times
    line = next(element for element in drawn(panel) if element.get("stroke-width") == "1.2")
    labels = [e for e in drawn(panel) if e.text == "0.0" and float(e.get("y")) < 60]
    assert all(float(label.get("y")) < float(line.get("y1")) for label in labels)


def test_the_word_right_of_zero_stays_in_the_panel():
    panel = forest([("", [estimate()])], "points", (-9, 1), 264, ("worse", "better"))
    (right,) = [t for t in drawn(panel).iter("text") if t.text == "better →"]
    assert float(right.get("x")) + width_of("better →") <= 264


@pytest.mark.parametrize("span", [(-9, 1), (-1, 9), (-1, 1)])
def test_the_words_beside_zero_do_not_overlap(span):
    rows = [estimate("a label of some width", value=0)]
    panel = forest([("", rows)], "x", around_zero(span), 264, ("worse", "better"))
    worse, better = (e for e in drawn(panel) if e.text in ("← worse", "better →"))
    assert float(worse.get("x")) + 8 < float(better.get("x"))
    assert float(worse.get("x")) > width_of(worse.text)


def test_numbers_that_are_none_are_left_out():
    broken = Estimate("cy", nan, nan, nan, "unclear", "none")
    panels = [
        forest([("", [broken])], "points", (-1, 1), 300),
        along([broken], ("weight", "F1"), (-1, 1), 300),
        changes([Change("cy", nan, 1.0, "unclear", "none")], "F1", (0, 1)),
        heat_map({("a", "b"): nan, ("b", "a"): 1.0}, ("source", "target"), "gain", 1.0),
        scatter([Named("a", nan, 1.0)], ("x", "y")),
        curves_chart(
            [Curve("a", [(0, nan)], band=[(nan, nan)])], Space.of(("x", "y"), [Curve("a", [])])
        ),
    ]
    assert all("nan" not in panel.marks.lower() for panel in panels)


def test_names_are_texts_in_every_chart():
    curve = Curve(HOSTILE, [(0.0, 1.0), (1.0, 2.0)], band=[(0.5, 1.5), (1.5, 2.5)])
    panels = [
        forest([(HOSTILE, [estimate(HOSTILE)])], HOSTILE, (-2, 2), 640, (HOSTILE, HOSTILE)),
        along([estimate(HOSTILE, at=0.5)], (HOSTILE, HOSTILE), (0, 2), 300, estimate(HOSTILE)),
        changes([Change(HOSTILE, 0.0, 1.0, "better", HOSTILE)], HOSTILE, (0, 1)),
        heat_map({(HOSTILE, "b"): 1.0}, (HOSTILE, HOSTILE), HOSTILE, 1.0),
        scatter([Named(HOSTILE, at, at) for at in (0.0, 1.0, 2.0)], (HOSTILE, HOSTILE)),
        curves_chart([curve], Space.of((HOSTILE, HOSTILE), [curve])),
    ]
    for panel in panels:
        plot = Plot("p", HOSTILE, HOSTILE, [titled_panel(HOSTILE, panel)])
        ElementTree.fromstring(plot.svg())
        for markup in (plot.svg(), *[svg for _, svgs in plot.drawings for svg in svgs]):
            assert "<script" not in markup
            assert "alert('" not in markup


def test_a_plot_without_anything_to_show_is_drawn():
    assert scatter([], ("x", "y")).marks
    assert changes([], "F1", span_of([])).marks
    assert forest([], "points", around_zero([]), 300).marks
    assert along([], ("weight", "F1"), span_of([]), 300).marks


def test_a_line_leads_through_what_finished_the_race():
    rows = [
        estimate("0.9", 3.0, "chosen", at=0.9),
        estimate("0.5", 1.0, "finalist", at=0.5),
        estimate("0.1", -3.0, "dropped", at=0.1),
    ]
    panel = along(rows, ("weight", "F1"), (-5, 5), 300, estimate("control", 0.5))
    (curve,) = drawn(panel).iter("path")
    assert curve.get("d").count("L") == 1
    assert hovers(panel) == ["control: +0.5", "0.9: +3.0", "0.5: +1.0", "0.1: -3.0"]
    dots = [(c.get("fill"), float(c.get("cx"))) for c in drawn(panel).iter("circle")]
    assert [fill for fill, _ in dots] == [
        *("var(--plot-subject)", "var(--plot-reference)", "var(--plot-paper)")
    ]
    assert dots[0][1] > dots[1][1] > dots[2][1]


def test_panels_share_axes_and_have_bands():
    one = Curve("one", [(0, 10.0), (1, 20.0)], band=[(5.0, 15.0), (10.0, 30.0)])
    other = Curve("other", [(0, 40.0), (1, 50.0)], "reference")
    space = Space.of(("layer", "accuracy"), [one, other], 0.0)
    panels = [curves_chart([curve], space, 1.0) for curve in (one, other)]
    axes = [[w for w in words(panel) if re.fullmatch(r"\d+", w)] for panel in panels]
    assert axes[0] == axes[1]
    assert "one, 1: 20" in hovers(panels[0])
    assert "aligned at layer 1" in hovers(panels[0])
    assert [p.get("fill") for p in drawn(panels[0]).iter("path")] == ["var(--plot-subject)", "none"]
    below = Space.of(("layer", "gain"), [Curve("one", [(0, -5.0), (1, 5.0)])])
    assert below.is_signed
    assert not space.is_signed


def test_a_heat_map_has_one_order_and_two_hues():
    cells = {(s, t): 1.0 if s < t else -4.0 for s in "cab" for t in "cab" if s != t}
    panel = heat_map(cells, ("source", "target"), "gain", 4.0)
    assert words(panel)[1:7] == [*"cab", *"cab"]
    assert "a → b: +1.0" in hovers(panel)
    marks = [g for g in drawn(panel).iter("g") if g.get("class") == "mark"]
    looks = {(g[1].get("fill"), g[1].get("fill-opacity")) for g in marks}
    assert looks == {("var(--plot-gain)", "0.25"), ("var(--plot-loss)", "1.00")}


def axis_of(panel, anchor):
    """Return the value of a pixel, by the axis's own labels: below the plot or left of it."""
    side, shift = ("x", 0) if anchor == "middle" else ("y", 4)
    labels = [
        (float(t.get(side)) - shift, float(t.text.replace("\N{MINUS SIGN}", "-")))
        for t in drawn(panel).iter("text")
        if t.get("text-anchor") == anchor and re.fullmatch(r"[\N{MINUS SIGN}+]?[\d.]+", t.text)
    ]
    (first, low), *_, (last, high) = sorted(labels)
    return lambda at: low + (float(at) - first) / (last - first) * (high - low)


def marks_of(panel):
    """The shapes of each mark by the text that it shows on hover."""
    groups = [g for g in drawn(panel).iter("g") if g.get("class") == "mark"]
    return {g.find("title").text: g for g in groups}


def corners(shape):
    pairs = (pair.split() for pair in shape.get("d").strip("MZ").split("L"))
    return [(float(x), float(y)) for x, y in pairs]


def near(*values):
    return pytest.approx(values, abs=0.05)


def test_bars_and_diamonds_span_their_intervals():
    rows = [
        Estimate("cy", 1.0, -0.5, 3.0, "unclear", "a bar"),
        Estimate("all", -1.0, -2.5, -0.2, "worse", "a diamond", is_mean=True),
    ]
    panel = forest([("", rows)], "points", (-4, 4), 640, ("worse", "better"))
    value, marks = axis_of(panel, "middle"), marks_of(panel)
    bar, dot = marks["cy: a bar"].find("line"), marks["cy: a bar"].find("circle")
    assert (value(bar.get("x1")), value(bar.get("x2"))) == near(-0.5, 3.0)
    assert value(dot.get("cx")) == pytest.approx(1.0, abs=0.05)
    left, top, right, _ = corners(marks["all: a diamond"].find("path"))
    assert tuple(value(x) for x, _ in (left, top, right)) == near(-2.5, -1.0, -0.2)
    zero = next(e for e in drawn(panel) if e.get("stroke-width") == "1.2")
    assert value(zero.get("x1")) == pytest.approx(0, abs=0.05)
    words_at = {t.text: float(t.get("x")) for t in drawn(panel).iter("text")}
    assert words_at["← worse"] < float(zero.get("x1")) < words_at["better →"]


def test_estimates_along_an_axis_are_at_their_weights_and_values():
    rows = [
        Estimate("0.9", 3.0, 1.0, 4.0, "chosen", "a", at=0.9),
        Estimate("0.5", 1.0, 0.5, 3.5, "finalist", "b", at=0.5),
        Estimate("0.1", -3.0, -4.0, -2.5, "dropped", "c", at=0.1),
    ]
    level = Estimate("control", 0.6, -1.0, 2.0, "unclear", "d")
    panel = along(rows, ("weight", "F1"), (-5, 5), 300, level)
    across, up, marks = axis_of(panel, "middle"), axis_of(panel, "end"), marks_of(panel)
    for row in rows:
        mark = marks[f"{row.label}: {row.says}"]
        dot, bar = mark.find("circle"), mark.find("line")
        assert (across(dot.get("cx")), up(dot.get("cy"))) == near(row.at, row.value)
        assert (up(bar.get("y1")), up(bar.get("y2"))) == near(row.low, row.high)
    line = marks["control: d"].find("line")
    assert (up(line.get("y1")), up(line.get("y2"))) == near(0.6, 0.6)
    (curve,) = drawn(panel).findall("path")
    assert [across(x) for x, _ in corners(curve)] == pytest.approx([0.5, 0.9], abs=0.05)
    titles = {t.text: t for t in drawn(panel).iter("text") if t.text in ("weight", "F1")}
    assert float(titles["weight"].get("y")) > 190 > 26 > float(titles["F1"].get("y"))


def test_a_change_is_hollow_before_and_filled_after():
    panel = changes([Change("cy", 41.0, 47.0, "better", "up")], "F1", (40, 50))
    value, mark = axis_of(panel, "middle"), marks_of(panel)["cy: up"]
    before, after = mark.findall("circle")
    assert (value(before.get("cx")), value(after.get("cx"))) == near(41.0, 47.0)
    assert [dot.get("fill") for dot in (before, after)] == [
        "var(--plot-paper)",
        "var(--plot-better)",
    ]
    line = mark.find("line")
    assert (value(line.get("x1")), value(line.get("x2"))) == near(41.0, 47.0)


def test_a_curve_goes_through_its_points_and_its_band_around_them():
    points, band = [(0, 10.0), (2, 20.0), (3, 12.0)], [(5.0, 11.0), (19.0, 30.0), (12.0, 12.5)]
    subject = Curve("one", points, "subject", band)
    reference = Curve("other", [(0, 4.0), (3, 6.0)], "reference")
    space = Space.of(("layer", "accuracy"), [subject, reference], 0.0)
    panel = curves_chart([subject, reference], space, 2.0)
    across, up, marks = axis_of(panel, "middle"), axis_of(panel, "end"), marks_of(panel)
    for name, drawn_points in (("one", points), ("other", reference.points)):
        for x, y in drawn_points:
            _, dot = marks[f"{name}, {x:g}: {y:.4g}"].findall("circle")
            assert across(dot.get("cx")) == pytest.approx(x, abs=0.05)
            assert up(dot.get("cy")) == pytest.approx(y, abs=0.3)
    colors = [p.get("stroke") or p.get("fill") for p in drawn(panel).findall("path")]
    assert colors == ["var(--plot-reference)", *["var(--plot-subject)"] * 2], "subject on top"
    around = corners(next(p for p in drawn(panel).findall("path") if p.get("fill-opacity")))
    ends = [low for low, _ in band] + [high for _, high in reversed(band)]
    assert [up(y) for _, y in around] == pytest.approx(ends, abs=0.3)
    assert all(26 <= y <= 160 for _, y in around), "bands stay inside the plot"
    line = marks["aligned at layer 2"].find("line")
    assert across(line.get("x1")) == pytest.approx(2, abs=0.05)
    titles = {t.text: float(t.get("y")) for t in drawn(panel).iter("text")}
    assert titles["layer"] > 160 > 26 > titles["accuracy"]


def test_points_are_at_their_values_and_the_band_holds_nineteen_of_twenty_lines():
    rng = np.random.default_rng(0)
    points = [Named(f"l{n}", x, 2 * x + y) for n, (x, y) in enumerate(rng.normal(size=(9, 2)))]
    panel = scatter(points, ("accuracy", "score"))
    across, up, marks = axis_of(panel, "middle"), axis_of(panel, "end"), marks_of(panel)
    for p in points:
        dot = marks[f"{p.name}: accuracy {p.x:.4g}, score {p.y:.4g}"].find("circle")
        assert (across(dot.get("cx")), up(dot.get("cy"))) == near(p.x, p.y)
    titles = {t.text: float(t.get("y")) for t in drawn(panel).iter("text")}
    assert titles["accuracy"] > 290 > 26 > titles["score"]
    edge = corners(drawn(panel).find("path"))
    middle = across(edge[20][0])
    draws = np.random.default_rng(12345).integers(9, size=(1000, 9))
    sides = np.array([[p.x, p.y] for p in points])
    lines = [np.polyval(np.polyfit(*sides[draw].T, 1), middle) for draw in draws]
    low, high = np.percentile(lines, [2.5, 97.5])
    assert (up(edge[20][1]), up(edge[::-1][20][1])) == near(low, high)


def test_a_cell_of_a_heat_map_is_in_its_row_and_column():
    cells = {(s, t): ord(s) - ord(t) + 0.4 for s in "abc" for t in "abcd" if s != t}
    panel = heat_map(cells, ("source", "target"), "gain", 8.0)
    texts = [t for t in drawn(panel).iter("text")]
    columns = {t.text: float(t.get("x")) for t in texts if t.text in "abcd" and t.get("y") == "32"}
    rows = {t.text: float(t.get("y")) for t in texts if t.get("text-anchor") == "end"}
    assert (set(columns), set(rows)) == (set("abcd"), set("abc"))
    for (row, column), value in cells.items():
        mark = marks_of(panel)[f"{row} → {column}: {number(value, 1, is_signed=True)}"]
        cell = {side: float(mark.find("rect").get(side)) for side in ("x", "y", "width", "height")}
        assert cell["x"] <= columns[column] <= cell["x"] + cell["width"] + 1
        assert cell["y"] <= rows[row] <= cell["y"] + cell["height"]
    legend = [
        t.text for t in texts[-10:] if re.fullmatch(r"[\N{MINUS SIGN}+]?[\d.]+", t.text or "")
    ]
    assert legend[-5:] == ["\N{MINUS SIGN}8", "\N{MINUS SIGN}4", "0", "+4", "+8"]


def test_names_of_points_do_not_cover_each_other():
    rng = np.random.default_rng(0)
    spots = [(float(x), float(y)) for x, y in rng.uniform((50, 20), (400, 280), (60, 2))]
    labels = placed([f"l{at}" for at in range(60)], spots, (44, 290))
    boxes = []
    for label in filter(None, labels):
        found = ElementTree.fromstring(label)
        x, y, size = float(found.get("x")), float(found.get("y")), width_of(found.text)
        left = x - size * {"start": 0, "middle": 0.5, "end": 1}[found.get("text-anchor")]
        boxes.append((left, y - 10, left + size, y + 3))
    assert len(boxes) > 20
    for at, one in enumerate(boxes):
        for other in boxes[at + 1 :]:
            apart = one[2] <= other[0] + 0.1 or other[2] <= one[0] + 0.1
            assert apart or one[3] <= other[1] + 0.1 or other[3] <= one[1] + 0.1


def test_the_line_through_points_is_least_squares_inside_its_band():
    points = [Named(f"l{x}", float(x), 2.0 * x + (x % 2)) for x in range(8)]
    band, line = drawn(scatter(points, ("x", "y"))).findall("path")
    ends = [[float(z) for z in pair.split()] for pair in line.get("d")[1:].split("L")]
    edge = [[float(z) for z in pair.split()] for pair in band.get("d")[1:-1].split("L")]
    lows, highs = edge[:40], edge[40:][::-1]
    assert len(ends) == 40
    assert all(lo[1] >= at[1] >= hi[1] for lo, at, hi in zip(lows, ends, highs, strict=True))
    x = np.arange(8.0)
    slope, start = np.polyfit(x, 2 * x + x % 2, 1)
    across, up = Scale(*span_of(x), 44, 408), Scale(*span_of(2 * x + x % 2), 290, 26)
    assert ends[20][1] == pytest.approx(
        up(start + slope * (across.low + (across.high - across.low) * 20 / 39)), abs=0.2
    )


def test_a_file_places_panels_side_by_side(tmp_path):
    panels = [titled_panel(f"panel {at}", Panel(100, 50, text("x", 0, 0))) for at in range(4)]
    plot = Plot("p", "title", "caption", panels)
    whole = ElementTree.fromstring(plot.svg("dark"))
    moves = re.findall(r"translate\((\d+) ([\d.]+)\)", plot.svg())
    assert [move for move in moves if move[0] != "0"] == [
        *(("16", "16.0"), ("132", "16.0"), ("248", "16.0"), ("16", "103.0"))
    ]
    assert whole[0].get("fill") == "#16181d"
    assert "var(" not in plot.svg()
    assert plot.svg() == plot.svg()
    assert not plot.is_wide
    assert Plot("p", "", "", [Panel(900, 50, "")]).is_wide
    plot.write(tmp_path)
    pictures = [vl_convert.svg_to_png(plot.svg(theme), scale=2) for theme in ("light", "dark")]
    assert (tmp_path / "p.png").read_bytes() == pictures[0] != pictures[1]
    assert (tmp_path / "p.svg").read_text(encoding="utf-8") == plot.svg()


def test_a_page_gets_a_drawing_for_phones_too():
    plot = Plot("p", "title", "", [Panel(640, 50, "")], None, [Panel(350, 50, "")])
    assert [(kind, len(svgs)) for kind, svgs in plot.drawings] == [("wide", 1), ("narrow", 1)]
    (svg,) = next(iter(plot.drawings))[1]
    assert 'role="img"' in svg
    assert 'aria-label="title"' in svg


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["", "-narrow"])
def test_the_picture_of_the_readme_shows_the_committed_result(theme, kind):
    script = runpy.run_path(str(ROOT / "examples" / "gemma" / "picture.py"))
    result = ROOT / "examples" / "gemma" / "results" / "seeds-differences.csv"
    committed = ROOT / "docs" / "images" / f"before-after{kind}-{theme}.svg"
    plot = script["picture"](result, "merged", script["WIDTHS"][kind])
    assert plot.svg(theme) == committed.read_text(encoding="utf-8")
