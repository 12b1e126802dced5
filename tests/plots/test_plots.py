"""Scales, marks and charts: what is drawn is where its value is, escaped, and on hover."""

import re
import runpy
from math import inf, nan
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

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
    ],
)
def test_ticks_are_round_and_inside(low, high, ticks):
    assert Scale(low, high, 0, 220).ticks(44) == ticks


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
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
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
