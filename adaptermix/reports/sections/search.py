"""The section about a weight search."""

from dataclasses import replace

from adaptermix.reports.runs import Run
from adaptermix.reports.sections.section import Section
from adaptermix.search.record import SearchReport, candidate_table, plot_of


def search_section(name: str, run: Run) -> Section:
    """Return the section about a weight search."""
    report: SearchReport = run.report
    texts = [
        f"Dev data of {report.task} in {', '.join(report.langs)}; {report.decoded:,} of the "
        f"{report.exhaustive:,} answers that an exhaustive search needs.",
    ]
    table = replace(candidate_table(report, weights=True), name=f"{name}-candidates")
    plot = replace(
        plot_of(report.candidates, report.winner, report.metric, f"{name}-weights", report.control),
        values=table,
    )
    notes, title = [*report.notes, run.source], f"Weight search: {run.name}"
    return Section(name, title, texts, [plot], [], notes, answer=f"{report.verdict}.")
