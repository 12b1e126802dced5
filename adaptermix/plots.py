"""Plots, as SVG and PNG files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptermix.significance import Interval


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
    score: Interval
    weight: float | None
    is_chosen: bool
    is_faint: bool


def plot_scores(points: Sequence[PlottedScore], label: str, folder: Path) -> None:
    """Plot scores with error bars, as ``search.svg`` and ``search.png``.

    Against weights where all have one; otherwise one below the other.

    Args:
        points: The scores.
        label: What the scores are.
        folder: Where to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5))
    axes = figure.add_subplot()
    is_scalar = all(point.weight is not None for point in points)
    for at, point in enumerate(points):
        score = point.score
        bars = [[max(0.0, score.value - score.low)], [max(0.0, score.high - score.value)]]
        look: dict[str, Any] = {
            "fmt": "o",
            "capsize": 3,
            "color": "C1" if point.is_chosen else "C0",
            "alpha": 0.4 if point.is_faint else 1.0,
        }
        if is_scalar:
            axes.errorbar([point.weight or 0.0], [score.value], yerr=bars, **look)
        else:
            axes.errorbar([score.value], [-at], xerr=bars, **look)
    if is_scalar:
        axes.set_xlabel("weight of the first adapter")
        axes.set_ylabel(label)
    else:
        axes.set_yticks([-at for at in range(len(points))], [point.name for point in points])
        axes.set_xlabel(label)
    chosen = next(point.name for point in points if point.is_chosen)
    axes.set_title(f"chosen: {chosen} (orange); faint: left the race early", fontsize="medium")
    for suffix in ("svg", "png"):
        figure.savefig(folder / f"search.{suffix}", bbox_inches="tight", dpi=150)
