"""Retrieval analyses as tables."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from adaptermix.retrieval.correlation import Correlation
from adaptermix.retrieval.summary import ALL
from adaptermix.tables import RULE, Row, Table, View, noted, titled

if TYPE_CHECKING:
    from adaptermix.retrieval.analysis import RetrievalReport
    from adaptermix.retrieval.task_scores import ScoreCorrelation


def retrieval_view(report: "RetrievalReport") -> View:
    """Show retrieval accuracy by layer, by language and by group, and what it goes with."""
    over = "all pairs" if report.pivot == ALL else f"pairs with {report.pivot}"
    sized = f"{report.split}, {report.sentences:,} sentences, {len(report.langs)} languages"
    tables = [_layer_table(report, f"retrieval accuracy (%), {over}: {sized}")]
    if "low-resource" in report.groups:
        title = "retrieval accuracy (%), low-resource languages"
        tables.append(_layer_table(report, title, "low-resource"))
    tables.append(_layer_table(report, f"MEXA score (%), {over}", value="mexa"))
    tables.append(_language_table(report))
    if report.correlations:
        readings = [found.reading for found in report.correlations]
        reading = "middle layer" if "middle layer" in readings else readings[0]
        tables.append(correlation_table(report.correlations, reading))
    remarks = noted(report.notes)
    if report.reused:
        remarks.append(
            f"representations: {report.reused:,} from the cache, {report.extracted:,} extracted"
        )
    return View(tables, [*remarks, f"record and tables: {report.out}"])


def _percent(values: Iterable[float]) -> list[str]:
    return [f"{100 * value:.1f}" for value in values]


def _layer_table(
    report: "RetrievalReport", title: str, over: str = ALL, value: str = "accuracy"
) -> Table:
    curves = [getattr(scores, value) for scores in report.by_layer if scores.over == over]
    rows: list[Row] = [
        [str(layer), *_percent(curve[at] for curve in curves)]
        for at, layer in enumerate(report.layers)
    ]
    means = [aggregate for aggregate in report.aggregates if aggregate.over == over]
    rows.append(RULE)
    for reading in dict.fromkeys(mean.reading for mean in means):
        cells = _percent(getattr(mean, value) for mean in means if mean.reading == reading)
        rows.append([reading, *cells])
    columns = ["layer", *report.systems]
    return Table("layers", title, columns, rows, align="r" * len(columns))


def _language_table(report: "RetrievalReport") -> Table:
    """Show each language and group by the first reading there is, the paper's by default."""
    first = report.aggregates[0] if report.aggregates else None
    chosen = first.layers if first else report.layers
    places = [report.layers.index(layer) for layer in chosen]

    def row(name: str, curves: Iterable[Sequence[float]]) -> Row:
        return [name, *_percent(sum(curve[at] for at in places) / len(places) for curve in curves)]

    rows = [
        *(row(x, (s.accuracy for s in report.by_language if s.lang == x)) for x in report.langs),
        RULE,
        *(
            row(name, (s.accuracy for s in report.by_layer if s.over == name))
            for name in (*report.groups, ALL)
        ),
    ]
    title = f"retrieval accuracy (%), {first.reading if first else 'layers'}"
    return Table("languages", title, ["language", *report.systems], rows)


def correlation_table(correlations: Sequence["ScoreCorrelation"], reading: str) -> Table:
    """Show how retrieval by one reading goes with scores, as figure 1b at the middle layer."""
    first = correlations[0]
    title = f"{first.system} retrieval, {reading}, and {titled(first.metric)} over languages"
    columns = ["scores of", "over", "languages", "Pearson", "p", "Spearman", "p"]
    rows = [
        [
            *(found.scored, found.over, str(len(found.points))),
            *(*_coefficient(found.pearson), *_coefficient(found.spearman)),
        ]
        for found in correlations
        if found.reading == reading
    ]
    return Table("correlations", title, columns, rows, align="llrrrrr")


def _coefficient(found: Correlation) -> tuple[str, str]:
    if found.r is None or found.p_value is None:
        return "-", "-"
    return f"{found.r:.3f}", "<0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}"


def aggregate_table(report: "RetrievalReport") -> Table:
    """Return the means of every group by every reading."""
    found = {(a.system, a.over, a.reading): a for a in report.aggregates}
    rows: list[Row] = []
    for over, reading in dict.fromkeys((a.over, a.reading) for a in report.aggregates):
        cells = [found.get((system, over, reading)) for system in report.systems]
        means = (" / ".join(_percent((a.accuracy, a.mexa))) if a else "-" for a in cells)
        rows.append([f"{over}, {reading}", *means])
    note = "In percent: retrieval accuracy / MEXA."
    return Table("aggregates", "Retrieval accuracy", ["", *report.systems], rows, note)


def files_of(report: "RetrievalReport") -> list[Table]:
    """Return the tables that an analysis leaves as CSV, a row a layer."""

    def by_layer(name: str, scores: Iterable[Any], keys: str, values: str) -> Table:
        named, counted = keys.split(), values.split()
        rows = [
            [
                *(getattr(score, key) for key in named),
                layer,
                *(getattr(score, value)[at] for value in counted),
            ]
            for score in scores
            for at, layer in enumerate(report.layers)
        ]
        return Table(name, "", [*named, "layer", *counted], rows)

    columns = ["system", "over", "reading", "accuracy", "mexa"]
    means: list[Row] = [[getattr(mean, name) for name in columns] for mean in report.aggregates]
    return [
        by_layer("layers", report.by_layer, "system over", "accuracy mexa"),
        by_layer(
            *("languages", report.by_language, "system lang"), "accuracy as_source as_target mexa"
        ),
        by_layer("pairs", report.pairs, "system source target", "accuracy mexa"),
        Table("aggregates", "", columns, means),
    ]
