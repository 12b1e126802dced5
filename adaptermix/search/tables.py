"""Searches as tables."""

from typing import TYPE_CHECKING

from adaptermix.tables import RULE, Cell, Row, Table, View, noted, shown, titled

if TYPE_CHECKING:
    from adaptermix.search.record import SearchReport


def search_view(report: "SearchReport") -> View:
    """Show every candidate's score, what was chosen, and its merge."""
    merge = report.merge.view()
    remarks = [
        f"examples decoded: {report.decoded:,} of the {report.exhaustive:,} that an exhaustive "
        f"search of the same candidates needs; {report.reused:,} were known from before",
        *noted([*_unranked(report), *report.notes]),
        *merge.remarks,
        f"record, weights and plot: {report.folder}",
    ]
    return View([candidate_table(report), report.verdict, *merge.shown], remarks)


def candidate_table(report: "SearchReport", *, weights: bool = False) -> Table:
    """Return the candidates, best first; with ``weights``, a column of these.

    Those that have not answered all examples stand below a line: their scores are of others.
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
        ends = (difference.value, difference.low, difference.high)
        seen, low, high = (shown(metric, value, "+") for value in ends)
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
        f"{fewer} of {len(report.candidates)} candidates have answered fewer than {most:,} "
        "examples; they stand below the line and are not ranked"
    ]
