"""Show a retrieval analysis."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from adaptermix.cli.console import Table, results, say
from adaptermix.tables import titled

if TYPE_CHECKING:
    from adaptermix.retrieval.analysis import RetrievalPlan, RetrievalReport
    from adaptermix.retrieval.correlation import Correlation
    from adaptermix.retrieval.task_scores import ScoreCorrelation


def show_retrieval_plan(plan: "RetrievalPlan") -> None:
    """Print what an analysis would do."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("systems", escape(" ".join(plan.systems)))
    table.add_row("languages", escape(" ".join(plan.langs)))
    table.add_row("sentences", f"{plan.sentences:,}")
    table.add_row("layers", " ".join(map(str, plan.layers)))
    table.add_row("pairs", f"{plan.pairs:,}, both directions")
    table.add_row("to extract", f"{plan.missing:,} of {plan.missing + plan.known:,} languages")
    table.add_row("disk", f"{plan.missing_bytes / 1e6:,.1f} MB")
    table.add_row("would write", escape(plan.out))
    results.print(table, highlight=False)


def show_retrieval(report: "RetrievalReport") -> None:
    """Print retrieval accuracy by layer, by language and by group, and what it goes with."""
    over = "all pairs" if report.pivot == "all" else f"pairs with {report.pivot}"
    sized = f"{report.split}, {report.sentences:,} sentences, {len(report.langs)} languages"
    results.print(_retrieval_by_layer(report, f"retrieval accuracy (%), {over}: {sized}", "all"))
    if "low-resource" in report.groups:
        title = "retrieval accuracy (%), low-resource languages"
        results.print(_retrieval_by_layer(report, title, "low-resource"))
    results.print(_retrieval_by_layer(report, f"MEXA score (%), {over}", "all", "mexa"))
    results.print(_retrieval_by_language(report))
    if report.correlations:
        results.print(_correlation_table(report.correlations))
    for note in report.notes:
        say(f"note: {note}")
    if report.reused:
        say(f"representations: {report.reused:,} from the cache, {report.extracted:,} extracted")
    say(f"record and tables: {report.out}")


def _retrieval_by_layer(
    report: "RetrievalReport", title: str, over: str, value: str = "accuracy"
) -> Table:
    table = Table(title=escape(title))
    table.add_column("layer", justify="right")
    curves = [getattr(scores, value) for scores in report.by_layer if scores.over == over]
    for system in report.systems:
        table.add_column(escape(system), justify="right")
    for at, layer in enumerate(report.layers):
        table.add_row(str(layer), *(f"{100 * curve[at]:.1f}" for curve in curves))
    table.add_section()
    means = [aggregate for aggregate in report.aggregates if aggregate.over == over]
    for reading in dict.fromkeys(mean.reading for mean in means):
        cells = [getattr(mean, value) for mean in means if mean.reading == reading]
        table.add_row(reading, *(f"{100 * cell:.1f}" for cell in cells))
    return table


def _retrieval_by_language(report: "RetrievalReport") -> Table:
    """Show each language and group by the first reading there is, the paper's by default."""
    reading = report.aggregates[0].reading if report.aggregates else "layers"
    chosen = report.aggregates[0].layers if report.aggregates else report.layers
    places = [report.layers.index(layer) for layer in chosen]
    table = Table(title=f"retrieval accuracy (%), {reading}")
    table.add_column("language")
    for system in report.systems:
        table.add_column(escape(system), justify="right")

    def add(name: str, rows: "Sequence[Sequence[float]]") -> None:
        means = [sum(row[place] for place in places) / len(places) for row in rows]
        table.add_row(escape(name), *(f"{100 * mean:.1f}" for mean in means))

    for lang in report.langs:
        add(lang, [s.accuracy for s in report.by_language if s.lang == lang])
    table.add_section()
    for name in [*report.groups, "all"]:
        add(name, [s.accuracy for s in report.by_layer if s.over == name])
    return table


def _correlation_table(correlations: "Sequence[ScoreCorrelation]") -> Table:
    """Show figure 1b's numbers at the middle layer; the record has the other readings as well."""
    readings = {found.reading for found in correlations}
    reading = "middle layer" if "middle layer" in readings else correlations[0].reading
    first = correlations[0]
    title = f"{first.system} retrieval, {reading}, and {titled(first.metric)} over languages"
    table = Table(title=escape(title))
    table.add_column("scores of")
    table.add_column("over")
    for heading in ("languages", "Pearson", "p", "Spearman", "p"):
        table.add_column(heading, justify="right")
    for found in correlations:
        if found.reading == reading:
            sides = [_coefficient(side) for side in (found.pearson, found.spearman)]
            numbers = [str(len(found.points)), *sides[0], *sides[1]]
            table.add_row(escape(found.scored), escape(found.over), *numbers)
    return table


def _coefficient(found: "Correlation") -> tuple[str, str]:
    if found.r is None or found.p_value is None:
        return "-", "-"
    return f"{found.r:.3f}", "<0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}"
