"""The report of a retrieval analysis, and how it is shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from adaptermix.adapters.seeds import several_seeds
from adaptermix.data.languages import are_same_text, members_of
from adaptermix.files.outputs import Report
from adaptermix.retrieval.correlation import Correlation
from adaptermix.retrieval.summary import ALL, Aggregate, LanguageScores, LayerScores, PairScores
from adaptermix.retrieval.task_scores import ScoreCorrelation
from adaptermix.tables import RULE, Cell, Row, Table, View, noted, number_of, p_shown, pairs, titled


def _percent(values: Iterable[float]) -> list[str]:
    return [f"{100 * value:.1f}" for value in values]


def _layer_table(
    report: RetrievalReport, title: str, over: str = ALL, value: str = "accuracy"
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


def _language_table(report: RetrievalReport) -> Table:
    """Show each language and group for the first reading, by default the paper's."""
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


def correlation_table(correlations: Sequence[ScoreCorrelation], reading: str) -> Table:
    """Show how one reading's accuracy correlates with scores, like figure 1b (middle layer)."""
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
    return f"{found.r:.3f}", p_shown(found.p_value)


def aggregate_table(report: RetrievalReport) -> Table:
    """Return the means of every group and reading."""
    found = {(a.system, a.over, a.reading): a for a in report.aggregates}
    rows: list[Row] = []
    for over, reading in dict.fromkeys((a.over, a.reading) for a in report.aggregates):
        cells = [found.get((system, over, reading)) for system in report.systems]
        means = (" / ".join(_percent((a.accuracy, a.mexa))) if a else "-" for a in cells)
        rows.append([f"{over}, {reading}", *means])
    note = "In percent: retrieval accuracy / MEXA."
    return Table("aggregates", "Retrieval accuracy", ["", *report.systems], rows, note)


def seed_table(report: RetrievalReport) -> Table | None:
    """Return the mean and standard deviation over seeds, for systems with several seeds."""
    families = several_seeds(report.systems)
    found = {(a.system, a.over, a.reading): a.accuracy for a in report.aggregates}
    rows: list[Row] = []
    for over, reading in dict.fromkeys((a.over, a.reading) for a in report.aggregates):
        cells = []
        for seeds in families.values():
            values = [found[name, over, reading] for name in seeds.values()]
            mean, spread = _percent((fmean(values), stdev(values)))
            cells.append(Cell(f"{mean} ± {spread}", fmean(values)))
        rows.append([f"{over}, {reading}", *cells])
    if not families or not rows:
        return None
    note = "In percent; the standard deviation (n - 1) is over the seeds."
    title = "Retrieval accuracy over seeds: mean ± standard deviation"
    return Table("seeds", title, ["", *families], rows, note)


def files_of(report: RetrievalReport) -> list[Table]:
    """Return the tables that an analysis writes as CSV: one row per layer, and the aggregates."""

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


@dataclass(frozen=True)
class RetrievalReport(Report):
    """Retrieval results of all systems; lists of values are parallel to ``layers``.

    Attributes:
        depth: Number of the model's blocks, which is the index of its last layer; layer 0 is the
            embeddings.
        groups: Analyzed languages by the name of their group.
        extracted: Number of system-language combinations whose representations were computed.
        reused: Number of system-language combinations taken from the cache.
    """

    kind: str = field(default="retrieval", kw_only=True)
    systems: list[str]
    langs: list[str]
    split: str
    sentences: int
    pooling: str
    pool_skip: int = field(default=0, kw_only=True)  # absent from older records
    neighbors: int
    pivot: str
    depth: int
    layers: list[int]
    groups: dict[str, list[str]]
    pairs: list[PairScores]
    by_language: list[LanguageScores]
    by_layer: list[LayerScores]
    aggregates: list[Aggregate]
    correlations: list[ScoreCorrelation]
    extracted: int
    reused: int
    notes: list[str]
    out: str

    @property
    def pivot_lang(self) -> str | None:
        """The pivot as it is named in ``langs``, where ``en`` may be ``eng_Latn``; None without."""
        if self.pivot == ALL:
            return None
        return next(iter(members_of([self.pivot], self.langs, are_same_text)), None)

    def view(self) -> View:
        """Show retrieval accuracy by layer, language and group, and its correlation with scores."""
        over = "all pairs" if self.pivot == ALL else f"pairs with {self.pivot}"
        sized = ", ".join(
            (
                self.split,
                number_of(self.sentences, "sentence"),
                number_of(len(self.langs), "language"),
            )
        )
        tables = [_layer_table(self, f"retrieval accuracy (%), {over}: {sized}")]
        if "low-resource" in self.groups:
            title = "retrieval accuracy (%), low-resource languages"
            tables.append(_layer_table(self, title, "low-resource"))
        tables.append(_layer_table(self, f"MEXA score (%), {over}", value="mexa"))
        tables.append(_language_table(self))
        if (seeds := seed_table(self)) is not None:
            tables.append(seeds)
        if self.correlations:
            readings = [found.reading for found in self.correlations]
            reading = "middle layer" if "middle layer" in readings else readings[0]
            tables.append(correlation_table(self.correlations, reading))
        remarks = noted(self.notes)
        if self.reused:
            remarks.append(
                f"representations: {self.reused:,} from the cache, {self.extracted:,} extracted"
            )
        return View(tables, [*remarks, f"record and tables: {self.out}"])


@dataclass(frozen=True)
class RetrievalPlan(Report):
    """What an analysis would do (dry run).

    Attributes:
        missing: Number of system-language combinations to extract.
        missing_bytes: Size of their representations on disk, in bytes.
    """

    systems: list[str]
    langs: list[str]
    sentences: int
    layers: list[int]
    pairs: int
    missing: int
    known: int
    missing_bytes: int
    out: str

    def view(self) -> View:
        """Return the human-readable view."""
        rows = {
            "systems": " ".join(self.systems),
            "languages": " ".join(self.langs),
            "sentences": f"{self.sentences:,}",
            "layers": " ".join(map(str, self.layers)),
            "pairs": f"{self.pairs:,}, both directions",
            "to extract": f"{self.missing:,} of {self.missing + self.known:,} languages",
            "disk": f"{self.missing_bytes / 1e6:,.1f} MB",
            "would write": self.out,
        }
        return View([pairs(rows)])
