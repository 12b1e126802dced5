"""The section about a search."""

from collections.abc import Mapping

from adaptermix.reports.runs import Run
from adaptermix.reports.sections.section import Section
from adaptermix.search.record import SearchReport, plot_of
from adaptermix.tables import Table, shown, titled


def search_section(name: str, run: Run, colors: Mapping[str, str]) -> Section:
    """Return the section about a search."""
    report: SearchReport = run.report
    metric = report.metric
    rows = [
        [
            c.name,
            ", ".join(f"{weight:g}" for weight in c.weighting.get("weights", [])),
            shown(metric, c.score.value),
            f"{shown(metric, c.score.low)} to {shown(metric, c.score.high)}",
            "chosen"
            if c.name == report.winner
            else f"{shown(metric, c.difference.interval.value, '+')} "
            f"({shown(metric, c.difference.interval.low, '+')} to "
            f"{shown(metric, c.difference.interval.high, '+')})",
            f"{c.examples:,}",
        ]
        for c in report.candidates
    ]
    columns = [
        "candidate",
        "weights",
        titled(metric),
        "95% interval",
        "to the chosen one",
        "examples",
    ]
    texts = [
        f"{report.verdict}.",
        f"Dev data of {report.task} in {', '.join(report.langs)}; {report.decoded:,} of the "
        f"{report.exhaustive:,} answers that an exhaustive search needs.",
    ]
    plot = plot_of(
        report.candidates, report.winner, report.metric, f"{name}-weights", report.control
    )
    return Section(
        name,
        f"Weight search: {run.name}",
        texts,
        [plot],
        [Table(f"{name}-candidates", "Candidates", columns, rows)],
        report.notes,
    )
