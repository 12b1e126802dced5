"""Sections about translation retrieval before and after alignment."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

from adaptermix.adapters.report import InspectReport
from adaptermix.models.files import layer_index
from adaptermix.plots.charts import (
    Curve,
    Named,
    Space,
    curves_chart,
    heat_map,
    scatter,
)
from adaptermix.plots.plot import Panel, Plot, titled_panel
from adaptermix.reports.runs import Run
from adaptermix.reports.sections.roles import (
    alignment_layers,
    language_groups,
    merge_among,
    named_in,
)
from adaptermix.reports.sections.section import Section
from adaptermix.retrieval.report import (
    RetrievalReport,
    aggregate_table,
    correlation_table,
    seed_table,
)
from adaptermix.retrieval.summary import ALL, LayerScores
from adaptermix.retrieval.task_scores import LEAST, ScoreCorrelation
from adaptermix.tables import Cell, Row, Table, number_of, scaled, titled

_Z = 1.959964  # normal quantile of a 95% interval
_AXES = ("layer", "retrieval accuracy (%)")


@dataclass(frozen=True)
class Analyzed:
    """A retrieval analysis with the roles of its systems.

    Attributes:
        name: Prefix of its plots' names.
        report: The analysis.
        inspected: The report on the adapters, if they were found.
        before: The baseline system.
        after: The merge, or another system of interest (``merge_among``).
        placed: Layer at which each adapter was aligned, or the sources of a merge.
    """

    name: str
    report: RetrievalReport
    inspected: InspectReport | None
    before: str
    after: str | None
    placed: Mapping[str, int]

    @property
    def wanted(self) -> tuple[int, str]:
        """The layer of interest with its name: the aligned layer or, without one, the middle."""
        layers = {*self.placed.values()}
        common = layers.pop() if len(layers) == 1 else None
        aligned = self.placed.get(self.after or "", common)
        if aligned is None:
            return layer_index("middle", self.report.depth), "middle layer"
        return aligned, "aligned layer"

    @property
    def layer(self) -> int:
        """The analyzed layer nearest to the layer of interest."""
        wanted, _ = self.wanted
        return min(self.report.layers, key=lambda layer: abs(layer - wanted))

    def mean(self, system: str, over: str = ALL) -> LayerScores | None:
        """Return a system's scores by layer over a group."""
        found = (r for r in self.report.by_layer if (r.system, r.over) == (system, over))
        return next(found, None)


def analyzed(
    name: str, run: Run, inspected: InspectReport | None, baseline: str | None
) -> Analyzed:
    """Assign the roles: the merge and the evaluation's baseline, if both were analyzed."""
    report: RetrievalReport = run.report
    inspected = named_in(run.content, inspected)
    first = report.systems[0]
    before = baseline if baseline in report.systems else first
    after = merge_among(report.systems, before or first, inspected)
    placed = alignment_layers(inspected, report.depth)
    return Analyzed(name, report, inspected, before or first, after, placed)


def retrieval_section(
    name: str, run: Run, inspected: InspectReport | None, baseline: str | None
) -> Section:
    """Return the section about a retrieval analysis."""
    seen = analyzed(name, run, inspected, baseline)
    report = seen.report
    plots = [
        *_pair_gains(seen),
        *_systems(seen),
        _groups(seen),
        *_placement(seen),
        *(
            _correlation(c, f"{name}-correlation-{number}")
            for number, c in enumerate(_drawn(report.correlations), start=1)
        ),
    ]
    tokens = "token" if report.pool_skip == 1 else f"{report.pool_skip} tokens"
    left_out = f" Every sentence vector leaves out the first {tokens}."
    texts = [
        f"{number_of(report.sentences, 'sentence')} of {report.split} in "
        f"{len(report.langs)} languages, "
        f"{'all pairs' if report.pivot == 'all' else f'pairs with {report.pivot}'}, ratio margin "
        f"with {number_of(report.neighbors, 'neighbor')}. Layer 0 is the embeddings."
        + (left_out if report.pool_skip else ""),
    ]
    tables = [replace(table, name=f"{name}-{table.name}") for table in _tables(report)]
    title = f"Retrieval: {run.name}"
    notes = [*report.notes, run.source]
    return Section(name, title, texts, plots, tables, notes, answer=sentence(seen))


def sentence(seen: Analyzed) -> str:
    """Return a sentence on the change at the layer of interest; nothing if there is one system."""
    after = seen.mean(seen.after) if seen.after else None
    before = seen.mean(seen.before)
    if after is None or before is None or not seen.report.layers:
        return ""
    at = seen.report.layers.index(seen.layer)
    was, now = before.accuracy[at], after.accuracy[at]
    wanted, kind = seen.wanted
    place = f"the {kind}" if wanted == seen.layer else f"the nearest to the {kind} {wanted}"
    first, second = (_with_interval(seen, share) for share in (was, now))
    return (
        f"Retrieval accuracy at layer {seen.layer}, {place}: {first} with {seen.before}, "
        f"{second} with {seen.after}."
    )


def _with_interval(seen: Analyzed, share: float) -> str:
    low, high = wilson(share, seen.report.sentences)
    return f"{share:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def _tables(report: RetrievalReport) -> Iterator[Table]:
    yield aggregate_table(report)
    if (seeds := seed_table(report)) is not None:
        yield seeds
    enough = _enough(report.correlations)
    for number, reading in enumerate(dict.fromkeys(found.reading for found in enough), start=1):
        table = correlation_table(enough, reading)
        yield replace(table, name=f"{table.name}-{number}" if number > 1 else table.name)


def _enough(correlations: Sequence[ScoreCorrelation]) -> list[ScoreCorrelation]:
    """Drop correlations over few languages, which older records contain."""
    return [c for c in correlations if len(c.points) >= LEAST]


def wilson(share: float, trials: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a share of independent trials.

    For the mean over languages with the same sentences, it is conservative: the mean of shares
    varies most if all languages get the same sentences right.
    """
    if not trials:
        return 0.0, 1.0
    middle = share + _Z**2 / (2 * trials)
    half = _Z * sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    whole = 1 + _Z**2 / trials
    return (middle - half) / whole, (middle + half) / whole


def _curve(seen: Analyzed, scores: LayerScores, name: str, *, is_reference: bool) -> Curve:
    points = [
        (float(layer), 100 * value)
        for layer, value in zip(seen.report.layers, scores.accuracy, strict=True)
    ]
    bounds = [wilson(value, seen.report.sentences) for value in scores.accuracy]
    band = [(100 * low, 100 * high) for low, high in bounds]
    return Curve(name, points, "reference" if is_reference else "subject", band)


def _small_multiples(
    seen: Analyzed, panels: Mapping[str, Sequence[Curve]], marks: Mapping[str, float]
) -> list[Panel]:
    """Draw curves in panels with shared axes."""
    space = Space.of(_AXES, [curve for curves in panels.values() for curve in curves], 0.0)
    return [
        titled_panel(title, curves_chart(curves, space, marks.get(title)))
        for title, curves in panels.items()
    ]


def _band_says(seen: Analyzed) -> str:
    return (
        "Bands: 95% intervals for other sentences (Wilson, "
        f"{number_of(seen.report.sentences, 'sentence')}; conservative, because they "
        "assume that all languages fail on the same sentences)."
    )


def _systems(seen: Analyzed) -> Iterator[Plot]:
    """Plot every system's accuracy by layer over all languages against the baseline (figure 3)."""
    before = seen.mean(seen.before)
    others = [s for s in seen.report.systems if s != seen.before and seen.mean(s)]
    if not others or before is None:
        return
    reference = _curve(seen, before, seen.before, is_reference=True)
    panels = {
        system: [reference, _curve(seen, scores, system, is_reference=False)]
        for system in others
        if (scores := seen.mean(system))
    }
    marks = {s: float(seen.placed[s]) for s in others if s in seen.placed}
    rule = " Dotted line: the aligned layer." if marks else ""
    caption = f"Dashed grey: {seen.before}. Blue: the system. {_band_says(seen)}{rule}"
    columns = {seen.before: before, **{s: m for s in others if (m := seen.mean(s))}}
    name = f"{seen.name}-systems"
    yield Plot(
        name,
        "Retrieval by layer, before and after",
        caption,
        _small_multiples(seen, panels, marks),
        _layer_values(seen, name, columns),
        subtitle="Retrieval accuracy (%) over all languages.",
    )


def _groups(seen: Analyzed) -> Plot:
    """Plot the first system's accuracy by layer, over all languages and groups (figure 1a)."""
    first = seen.report.systems[0]
    mine = {row.over: row for row in seen.report.by_layer if row.system == first}
    every = [_curve(seen, mine[ALL], "all", is_reference=True)] if len(mine) > 1 else []
    panels = {
        over: [*every, _curve(seen, row, over, is_reference=False)]
        for over, row in mine.items()
        if over != ALL or len(mine) == 1
    }
    caption = f"Dashed grey: all languages. Blue: the group. {_band_says(seen)}"
    name = f"{seen.name}-layers"
    values = _layer_values(seen, name, mine)
    title = f"Retrieval by layer and group: {first}"
    subtitle = f"Retrieval accuracy (%) of {first}."
    panels_drawn = _small_multiples(seen, panels, {})
    return Plot(name, title, caption, panels_drawn, values, subtitle=subtitle)


def _layer_values(seen: Analyzed, name: str, columns: Mapping[str, LayerScores]) -> Table:
    rows: list[Row] = [
        [
            str(layer),
            *(Cell(f"{100 * s.accuracy[at]:.1f}", s.accuracy[at]) for s in columns.values()),
        ]
        for at, layer in enumerate(seen.report.layers)
    ]
    sides = "r" * (len(columns) + 1)
    return Table(f"{name}-values", "Retrieval accuracy (%)", ["layer", *columns], rows, align=sides)


def _placement(seen: Analyzed) -> Iterator[Plot]:
    """Plot the gain by layer of what was aligned at different layers (figure 4)."""
    placed = {s: layer for s, layer in seen.placed.items() if s in seen.report.systems}
    base = seen.mean(seen.report.systems[0])
    if len(set(placed.values())) < 2 or base is None:
        return
    layers = seen.report.layers
    gains = {
        f"{system}, at layer {placed[system]}": [
            100 * (value - was) for value, was in zip(scores.accuracy, base.accuracy, strict=True)
        ]
        for system in sorted(placed, key=lambda system: placed[system])
        if (scores := seen.mean(system))
    }
    drawn = {
        title: Curve(title, [(float(at), y) for at, y in zip(layers, values, strict=True)])
        for title, values in gains.items()
    }
    space = Space.of(("layer", "gain in accuracy (points)"), list(drawn.values()), 0.0)
    panels = [
        titled_panel(title, curves_chart([curve], space, float(placed[title.rsplit(", ", 1)[0]])))
        for title, curve in drawn.items()
    ]
    name = f"{seen.name}-placement"
    rows: list[Row] = [
        [str(layer), *(f"{values[at]:+.1f}" for values in gains.values())]
        for at, layer in enumerate(layers)
    ]
    values_table = Table(f"{name}-values", "Gain in accuracy (points)", ["layer", *gains], rows)
    title = "Gain by the layer of the alignment loss"
    subtitle = f"Difference from {seen.report.systems[0]} in retrieval accuracy, in points."
    caption = "Adapters aligned at different layers, or merges of them. "
    caption += "Dotted line: the aligned layer."
    yield Plot(name, title, caption, panels, values_table, subtitle=subtitle)


def _pair_gains(seen: Analyzed) -> Iterator[Plot]:
    """Plot the merge's gain for every pair of languages at the layer of interest."""
    if seen.after is None or not seen.report.layers:
        return
    gains = _gains(seen)
    if not gains:
        return
    pivot = seen.report.pivot_lang
    name = f"{seen.name}-pairs"
    title = f"What changed between languages: {seen.after} compared with {seen.before}"
    subtitle = f"Change in retrieval accuracy at layer {seen.layer}, in points."
    caption = "Blue: gains. Orange: losses."
    titles = ("language", "direction") if pivot else ("source", "target")
    cells = _by_direction(gains, pivot) if pivot else gains
    top = max(map(abs, cells.values())) or 1.0
    panel = heat_map(cells, titles, "gain in accuracy (points)", top)
    sources, targets = (list(dict.fromkeys(key[side] for key in cells)) for side in (0, 1))
    rows: list[Row] = [
        [s, *(f"{cells[s, t]:+.1f}" if (s, t) in cells else "" for t in targets)] for s in sources
    ]
    values = Table(f"{name}-values", "Gain in accuracy (points)", [titles[0], *targets], rows)
    yield Plot(name, title, caption, [panel], values, subtitle=subtitle)


def _gains(seen: Analyzed) -> dict[tuple[str, str], float]:
    report = seen.report
    at = report.layers.index(seen.layer)
    groups = language_groups(report.langs, seen.after, seen.inspected, report.groups)
    order = {
        lang: place for place, lang in enumerate(lang for _, group in groups for lang in group)
    }
    found = {(p.system, p.source, p.target): 100 * p.accuracy[at] for p in report.pairs}
    pairs = sorted(
        {(source, target) for system, source, target in found if system == seen.after},
        key=lambda pair: (order.get(pair[0], len(order)), order.get(pair[1], len(order))),
    )
    return {
        (source, target): found[str(seen.after), source, target]
        - found[seen.before, source, target]
        for source, target in pairs
        if (seen.before, source, target) in found
    }


def _by_direction(
    gains: Mapping[tuple[str, str], float], pivot: str
) -> dict[tuple[str, str], float]:
    """Arrange pairs with a pivot as one row per language, with both directions as columns."""
    others = dict.fromkeys(lang for pair in gains for lang in pair if lang != pivot)
    return {
        (lang, f"{way} {pivot}"): gains[pair]
        for lang in others
        for way, pair in (("from", (pivot, lang)), ("to", (lang, pivot)))
        if pair in gains
    }


def _drawn(correlations: Sequence[ScoreCorrelation]) -> list[ScoreCorrelation]:
    """Return the correlations to plot: over all languages, at the middle layer as in figure 1b.

    Undefined correlations, where one side is constant, are left out.
    """
    over_all = [c for c in _enough(correlations) if c.over == "all" and c.pearson.r is not None]
    readings = [c.reading for c in over_all]
    drawn = ["middle layer"] if "middle layer" in readings else readings[:1]
    return [c for c in over_all if c.reading in drawn]


def _correlation(found: ScoreCorrelation, name: str) -> Plot:
    """Plot retrieval accuracy against task score, one point per language (figure 1b)."""
    points = [
        Named(point.lang, 100 * point.accuracy, scaled(found.metric, point.score))
        for point in found.points
    ]
    axes = f"retrieval accuracy of {found.system} (%), {found.reading}", titled(found.metric)
    title = f"Retrieval of {found.system} against the score of {found.scored}"
    caption = f"{_coefficients(found)}. Band: 95% of the regression lines over resampled languages."
    rows: list[Row] = [[p.name, f"{p.x:.1f}", f"{p.y:.4g}"] for p in points]
    values = Table(f"{name}-values", title, ["language", *axes], rows)
    subtitle = f"Retrieval accuracy (%) and {axes[1]}, one point per language."
    return Plot(name, title, caption, [scatter(points, axes)], values, subtitle=subtitle)


def _coefficients(found: ScoreCorrelation) -> str:
    parts = [
        f"{label} undefined"
        if c.r is None or c.p_value is None
        else f"{label} {c.r:+.2f} (p = {c.p_value:.2g})"
        for label, c in (("Pearson", found.pearson), ("Spearman", found.spearman))
    ]
    return f"{found.over}: {', '.join(parts)}, {number_of(len(found.points), 'language')}"
