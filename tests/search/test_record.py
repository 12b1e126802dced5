"""The plot of a search: all candidates, and what they lost."""

import re
from dataclasses import replace

import pytest

from adaptermix.search.record import CandidateResult, plot_of
from adaptermix.tasks.metrics.significance import Difference, Interval


def candidate(name, weights, score, dropped=None, rules=()):
    half = 0.02 if dropped is None else 0.1
    lost = Difference(Interval(score - 0.6, score - 0.6 - half, score - 0.6 + half), 0.2)
    weighting = {"weights": weights} | ({"rules": [*rules]} if rules else {})
    interval = Interval(score, score - half, score + half)
    return CandidateResult(name, weighting, 40 if dropped else 400, interval, lost, dropped)


SCALAR = [
    candidate("0.85", [0.85, 0.15], 0.6),
    candidate("task alone", [1.0, 0.0], 0.55),
    candidate("0.5", [0.5, 0.5], 0.3, dropped=1),
    candidate("0.85 of task alone", [0.85], 0.57),
]


def hovers(panel):
    return re.findall(r"<title>([^<]*)</title>", panel.marks)


def test_scores_and_losses_stand_above_the_weights():
    plot = plot_of(SCALAR, "0.85", "slot_f1", control="0.85 of task alone")
    scores, losses = plot.panels
    assert plot.title == "Dev score by weight"
    assert hovers(scores) == [
        "0.85 of task alone: 57.0 [55.0, 59.0], 400 examples",
        "0.85: 60.0 [58.0, 62.0], 400 examples",
        "task alone: 55.0 [53.0, 57.0], 400 examples",
        "0.5: 30.0 [20.0, 40.0], 40 examples, dropped after round 1",
    ]
    assert "0.5: -30.0 [-40.0, -20.0], 40 examples, dropped after round 1" in hovers(losses)
    assert plot.caption.endswith(" Dashed: 0.85 of task alone.")


def test_a_trial_that_was_in_no_race_is_not_shown_as_a_finalist():
    """It answered a part of the examples, and no round dropped it."""
    trial = candidate("trial", [0.6, 0.4], 0.7)
    plots = [
        plot_of([*SCALAR, more], "0.85", "slot_f1")
        for more in (trial, replace(trial, examples=100), replace(trial, examples=100, dropped=1))
    ]
    whole, part, dropped = (p.panels[0].marks.replace(", dropped after round 1", "") for p in plots)
    assert part.replace("100 examples", "") == dropped.replace("100 examples", "")
    assert part.replace("100 examples", "400 examples") != whole


@pytest.mark.parametrize(
    "more", [candidate("three", [0.6, 0.2, 0.2], 0.5), candidate("r", [0.5, 0.5], 0.5, rules="x")]
)
def test_weights_that_are_no_number_stand_below_each_other(more):
    plot = plot_of([*SCALAR, more], "0.85", "slot_f1", control="0.85 of task alone")
    assert plot.title == "Dev scores"
    names = [hover.partition(":")[0] for hover in hovers(plot.panels[0])]
    assert names == ["0.85", "task alone", "0.5", "0.85 of task alone", more.name]
    assert "Dashed" not in plot.caption
