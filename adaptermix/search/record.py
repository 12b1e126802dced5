"""The record of a search: report, plan, files and plot."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptermix.adapters.card import can_write_card
from adaptermix.files.outputs import NotedReport, Report, whole_output
from adaptermix.merging.report import MergeReport
from adaptermix.search.halving import Entry, SuccessiveHalving
from adaptermix.tables import (
    RULE,
    Cell,
    Row,
    Table,
    View,
    counted,
    ends_shown,
    noted,
    number_of,
    pairs,
    scaled,
    shown,
    titled,
)
from adaptermix.tasks.metrics.significance import Difference, Interval

if TYPE_CHECKING:
    from adaptermix.plots.intervals import Estimate
    from adaptermix.plots.plot import Plot


def candidate_table(report: "SearchReport", *, weights: bool = False) -> Table:
    """Return the table of candidates, best first; ``weights`` adds a column.

    Candidates that have not answered all examples come below a line, because their scores are
    based on fewer examples.
    """
    metric = report.metric
    rows: list[Row] = []
    most = _most_examples(report)
    ranked = sorted(report.candidates, key=lambda candidate: candidate.examples < most)
    for candidate in ranked:
        if candidate.examples < most and RULE not in rows:
            rows.append(RULE)
        score, difference = candidate.score, candidate.difference.interval
        is_winner = candidate.name == report.winner
        seen = shown(metric, difference.value, "+")
        low, high = ends_shown(metric, difference.low, difference.high)
        mixture = ", ".join(f"{weight:g}" for weight in candidate.weighting.get("weights", []))
        rows.append(
            [
                Cell(candidate.name, look="strong" if is_winner else ""),
                *([mixture] if weights else []),
                shown(metric, score.value),
                f"{shown(metric, score.low)} to {shown(metric, score.high)}",
                "chosen" if is_winner else f"{seen} ({low} to {high})",
                f"{candidate.examples:,}",
            ]
        )
    columns = ["candidate", *(["weights"] if weights else [])]
    columns += ["score", "95% interval", "to the chosen one", "examples"]
    title = f"{report.task} dev: macro average of {titled(metric)}, {report.engine} engine"
    note = "".join(f"{note[0].upper()}{note[1:]}." for note in _unranked(report))
    return Table("candidates", title, columns, rows, note)


def _most_examples(report: "SearchReport") -> int:
    return max((candidate.examples for candidate in report.candidates), default=0)


def _unranked(report: "SearchReport") -> list[str]:
    most = _most_examples(report)
    fewer = sum(candidate.examples < most for candidate in report.candidates)
    if not fewer:
        return []
    return [
        f"{fewer} of {len(report.candidates)} candidates answered fewer than {most:,} "
        "examples; they are listed below the line and are not ranked"
    ]


RECORD_FILE = "search.json"
_PANEL = 400  # width of a panel of the plot
STAGE = "merged"  # holds the adapter in the search's folder until it is moved to its place


@dataclass(frozen=True)
class CandidateResult:
    """The result of one candidate.

    Attributes:
        name: Its weights, or the name of a single adapter.
        weighting: Its weights, rules included.
        examples: Number of dev examples it answered, over all languages.
        score: Macro average of the task's score over languages, on these examples.
        difference: Its score minus the winner's, on the examples that both answered.
        dropped: Round after which it was dropped; 0 for a trial that did not join the race, None
            for a finalist and the control.
    """

    name: str
    weighting: dict[str, Any]
    examples: int
    score: Interval
    difference: Difference
    dropped: int | None


@dataclass(frozen=True)
class SearchReport(Report):
    """What a search tried, what it chose, and how certain the choice is.

    Attributes:
        winner: Name of the chosen candidate.
        verdict: The choice in words.
        tied: Candidates that do not differ significantly from the one with the best score.
        candidates: All of them, best first.
        task: Name of the task.
        metric: Name of the metric that the search maximized.
        langs: Languages of the dev data.
        decoded: Number of candidate-example pairs that were needed.
        exhaustive: Number that an exhaustive search of the same candidates needs.
        reused: How many of the needed ones were in the cache.
        merge: The merge that was written.
        folder: Folder of the record and the plot.
        control: Name of the control: the chosen merge without its other adapters.
    """

    winner: str
    verdict: str
    tied: list[str]
    candidates: list[CandidateResult]
    task: str
    metric: str
    langs: list[str]
    engine: str
    decoded: int
    exhaustive: int
    reused: int
    merge: MergeReport
    notes: list[str]
    folder: str
    control: str | None = None

    def view(self) -> View:
        """Show the candidates' scores, the choice, and its merge."""
        merge = self.merge.view()
        remarks = [
            f"examples decoded: {self.decoded:,}; an exhaustive search of the same candidates "
            f"needs {self.exhaustive:,}; {self.reused:,} from the cache",
            *noted([*_unranked(self), *self.notes]),
            *merge.remarks,
            f"record, weights and plot: {self.folder}",
        ]
        return View([candidate_table(self), self.verdict, *merge.shown], remarks)


@dataclass(frozen=True)
class SearchPlan(NotedReport):
    """What a search would do (dry run)."""

    candidates: list[str]
    examples: dict[str, int]
    longest_prompt: int
    out: str
    folder: str

    def view(self) -> View:
        """Return the human-readable view."""
        rows = {
            "candidates": ", ".join(self.candidates),
            "dev examples": counted(self.examples),
            "longest prompt": f"{self.longest_prompt:,} tokens",
            "would write": f"{self.out} and {self.folder}",
        }
        return View([pairs(rows)])


def search_folder(out: Path) -> Path:
    """Return the folder of the record, which is next to the search's adapter."""
    return out.with_name(out.name.removesuffix(".safetensors") + ".search")


@dataclass(frozen=True)
class Choice:
    """The outcome of a search.

    Attributes:
        winner: The merge to write.
        tied: The candidates that do not differ significantly from the best.
        verdict: The outcome in words.
        control: The winner without its other adapters, if it was decoded.
    """

    winner: Entry
    tied: list[Entry]
    verdict: str
    control: Entry | None


def is_half_out(out: Path) -> bool:
    """Whether a search was killed after its record appeared and before its adapter was in place."""
    return (search_folder(out) / STAGE / out.name).exists()


def put_in_place(stage: Path, out: Path) -> None:
    """Move an adapter to its place. The model card beside a single file is moved first."""
    for path in sorted(stage.iterdir(), key=lambda path: path.name == out.name):
        target = out.with_name(path.name)
        if path.name == out.name or can_write_card(target):
            with whole_output(target) as partial:
                path.rename(partial)
    shutil.rmtree(stage)


def plot_of(
    candidates: Sequence[CandidateResult],
    winner: str,
    metric: str,
    name: str = "search",
    control: str | None = None,
) -> "Plot":
    """Plot the scores of all candidates, and their differences from the chosen one.

    The x axis is the weight if every candidate has a single one; otherwise candidates are listed
    one below the other. In a plot by weight, the control is a dashed line.
    """
    from adaptermix.plots.intervals import along, forest
    from adaptermix.plots.plot import Plot, titled_panel
    from adaptermix.plots.scales import around_zero, span_of

    label = titled(metric)
    most = max(candidate.examples for candidate in candidates)
    titles = f"{label} on dev data", f"{label}, difference from the chosen one"
    merges = [c for c in candidates if c.name != control]
    is_curve = all(_weight(c) is not None for c in merges)
    panels = []
    for title, is_difference in zip(titles, (False, True), strict=True):
        rows = [_estimate(c, winner, metric, is_difference, most) for c in candidates]
        ends = [end for row in rows for end in (row.low, row.high)]
        span = around_zero(ends) if is_difference else span_of(ends)
        if is_curve:
            level = next((row for row in rows if row.label == control), None)
            shown_rows = [row for row in rows if row.label != control]
            axes = "weight of the first adapter", title
            panels.append(along(shown_rows, axes, span, _PANEL, level))
        else:
            sides = ("worse", "better") if is_difference else ("", "")
            panels.append(forest([("", rows)], title, span, _PANEL, sides))
    headings = "Score of each candidate", "Difference from the chosen one, same examples"
    panels = [titled_panel(*pair) for pair in zip(headings, panels, strict=True)]
    dashed = f" Dashed: {control}." if control else ""
    subtitle = f"{label}, macro average over languages, with 95% intervals."
    caption = (
        "Blue: chosen. Filled grey: answered all examples. Hollow: dropped early, so its score is "
        f"from fewer examples; compare it in the second panel.{dashed if is_curve else ''}"
    )
    heading = "Dev score by weight" if is_curve else "Dev scores"
    return Plot(name, heading, caption, panels, subtitle=subtitle)


def _weight(candidate: CandidateResult) -> float | None:
    """Return the weight of the first of two adapters whose weights sum to 1."""
    weights = candidate.weighting["weights"]
    is_scalar = len(weights) == 2 and math.isclose(sum(weights), 1)
    return weights[0] if is_scalar and "rules" not in candidate.weighting else None


def _estimate(
    candidate: CandidateResult, winner: str, metric: str, is_difference: bool, most: int
) -> "Estimate":
    from adaptermix.plots.intervals import Estimate

    seen = candidate.difference.interval if is_difference else candidate.score
    value, low, high = (scaled(metric, end) for end in (seen.value, seen.low, seen.high))
    is_chosen, left = candidate.name == winner, candidate.dropped
    sign = "+" if is_difference else ""
    says = (
        f"{shown(metric, seen.value, sign)} "
        f"[{', '.join(ends_shown(metric, seen.low, seen.high, sign))}], "
        + number_of(candidate.examples, "example")
        + {None: "", 0: ", dropped before round 1"}.get(left, f", dropped after round {left}")
    )
    look = "chosen" if is_chosen else "finalist" if candidate.examples == most else "dropped"
    return Estimate(candidate.name, value, low, high, look, says, at=_weight(candidate))


def result_of(halving: SuccessiveHalving, entry: Entry, winner: Entry) -> CandidateResult:
    """Return the result of one candidate."""
    return CandidateResult(
        name=entry.candidate.name,
        weighting=entry.candidate.weighting.as_record(),
        examples=entry.answered,
        score=halving.score_interval(entry),
        difference=halving.compare(entry, winner),
        dropped=entry.dropped,
    )
