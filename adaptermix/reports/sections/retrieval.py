"""Sections about retrieval."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from adaptermix.adapters.report import InspectReport, adapter_name
from adaptermix.errors import ConfigError
from adaptermix.models.files import layer_index
from adaptermix.plots import Plot, colors_of, heat_map, lines, scatter
from adaptermix.reports.runs import Run
from adaptermix.reports.sections.section import Section
from adaptermix.retrieval.report import RetrievalReport, aggregate_table, correlation_table
from adaptermix.retrieval.summary import PairScores
from adaptermix.retrieval.task_scores import LEAST, ScoreCorrelation
from adaptermix.tables import Table, scaled, titled


def retrieval_section(
    name: str, run: Run, colors: Mapping[str, str], *, inspected: InspectReport | None
) -> Section:
    """Return the section about a retrieval analysis."""
    report: RetrievalReport = run.report
    enough = [c for c in report.correlations if len(c.points) >= LEAST]  # older records have others
    report = replace(report, correlations=enough)
    own = {system: colors[system] for system in report.systems}
    plots = [
        _by_layer(report, f"{name}-layers"),
        _before_and_after(report, own, f"{name}-systems"),
        *_placement(report, inspected, f"{name}-placement"),
        *(
            _correlation(c, f"{name}-correlation-{number}")
            for number, c in enumerate(_drawn(report.correlations), start=1)
        ),
        *_language_pairs(report, inspected, name),
    ]
    left_out = f" Left out of every sentence: its first {report.pool_skip} tokens."
    texts = [
        f"{report.sentences:,} sentences of {report.split} in {len(report.langs)} languages, "
        f"{'all pairs' if report.pivot == 'all' else f'pairs with {report.pivot}'}, ratio margin "
        f"with {report.neighbors} neighbors. Layer 0 is the embeddings."
        + (left_out if report.pool_skip else ""),
    ]
    return Section(
        name,
        f"Retrieval: {run.name}",
        texts,
        [plot for plot in plots if plot is not None],
        [replace(table, name=f"{name}-{table.name}") for table in _tables(report)],
        report.notes,
    )


def _tables(report: RetrievalReport) -> Iterator[Table]:
    yield aggregate_table(report)
    readings = dict.fromkeys(found.reading for found in report.correlations)
    for number, reading in enumerate(readings, start=1):
        table = correlation_table(report.correlations, reading)
        yield replace(table, name=f"{table.name}-{number}" if number > 1 else table.name)


def _by_layer(report: RetrievalReport, name: str) -> Plot:
    """Figure 1a: the first system's accuracy by layer, over all languages and groups."""
    first = report.systems[0]
    mine = [row for row in report.by_layer if row.system == first]
    rows = [
        {"layer": layer, "value": 100 * value, "line": row.over}
        for row in mine
        for layer, value in zip(report.layers, row.accuracy, strict=True)
    ]
    colors = colors_of([row.over for row in mine])
    texts = (f"Retrieval by layer: {first}", "All languages, and each group of languages.")
    return lines(rows, colors, ("layer", "retrieval accuracy (%)"), name, texts)


def _before_and_after(report: RetrievalReport, colors: Mapping[str, str], name: str) -> Plot | None:
    """Figure 3: every system's accuracy by layer over all languages."""
    if len(report.systems) < 2:
        return None
    rows = [
        {"layer": layer, "value": 100 * value, "line": row.system}
        for row in report.by_layer
        if row.over == "all"
        for layer, value in zip(report.layers, row.accuracy, strict=True)
    ]
    texts = ("Retrieval before and after tuning", "Mean over all language pairs.")
    return lines(rows, colors, ("layer", "retrieval accuracy (%)"), name, texts)


def _placement(report: RetrievalReport, inspected: InspectReport | None, name: str) -> list[Plot]:
    """Figure 4: the gain of adapters that were aligned at different layers, by layer."""
    placed = _alignment_layers(inspected, report.depth) if inspected else {}
    placed = {system: layer for system, layer in placed.items() if system in report.systems}
    base = next(
        (r for r in report.by_layer if (r.system, r.over) == (report.systems[0], "all")), None
    )
    if len(set(placed.values())) < 2 or base is None:
        return []
    rows: list[dict[str, Any]] = [
        {
            "layer": layer,
            "value": 100 * (value - before),
            "line": f"at layer {placed[row.system]}",
        }
        for row in sorted(report.by_layer, key=lambda row: placed.get(row.system, 0))
        if row.over == "all" and row.system in placed
        for layer, value, before in zip(report.layers, row.accuracy, base.accuracy, strict=True)
    ]
    colors = colors_of(["", *dict.fromkeys(row["line"] for row in rows)])
    colors.pop("")
    texts = (
        "Where the alignment loss was placed",
        f"Accuracy minus that of {report.systems[0]}, for adapters aligned at different layers.",
    )
    return [lines(rows, colors, ("layer", "gain in accuracy (points)"), name, texts)]


def _alignment_layers(inspected: InspectReport, depth: int) -> dict[str, int]:
    """Return the layer that each adapter was aligned at, alone or beside a task."""
    layers = {}
    for adapter in inspected.adapters:
        settings = adapter.record.get("settings")
        is_aligned = adapter.record.get("command") in ("train-align", "train-joint")
        if is_aligned and isinstance(settings, dict):
            with suppress(ConfigError, ValueError):  # of a deeper model, or written by another hand
                layers[adapter_name(adapter.path)] = layer_index(
                    settings.get("layer") or "middle", depth
                )
    return layers


def _drawn(correlations: Sequence[ScoreCorrelation]) -> list[ScoreCorrelation]:
    """Choose those that are plotted: over all languages, at the middle layer as figure 1b.

    Where one side does not vary there is nothing to see.
    """
    over_all = [c for c in correlations if c.over == "all" and c.pearson.r is not None]
    readings = [c.reading for c in over_all]
    drawn = ["middle layer"] if "middle layer" in readings else readings[:1]
    return [c for c in over_all if c.reading in drawn]


def _correlation(found: ScoreCorrelation, name: str) -> Plot:
    """Figure 1b: retrieval accuracy against task score, a point a language."""
    rows = [
        {
            "x": 100 * point.accuracy,
            "y": scaled(found.metric, point.score),
            "name": point.lang,
        }
        for point in found.points
    ]
    axes = (f"retrieval accuracy of {found.system} (%), {found.reading}", titled(found.metric))
    title = f"Retrieval of {found.system} against the score of {found.scored}"
    return scatter(rows, axes, name, (title, _coefficients(found) + "."))


def _coefficients(found: ScoreCorrelation) -> str:
    parts = [
        f"{label} undefined"
        if c.r is None or c.p_value is None
        else f"{label} {c.r:+.2f} (p = {c.p_value:.2g})"
        for label, c in (("Pearson", found.pearson), ("Spearman", found.spearman))
    ]
    return f"{found.over}: {', '.join(parts)}, {len(found.points)} languages"


def _language_pairs(
    report: RetrievalReport, inspected: InspectReport | None, name: str
) -> Iterator[Plot]:
    """Draw a heat map of language pairs for every system: the first, and what others change.

    Each is drawn at the layer where its adapter was aligned; others, such as merges, at that of
    all adapters here if it is one, else in the middle.
    """
    if not report.layers:
        return
    placed = _alignment_layers(inspected, report.depth) if inspected else {}
    layers = {placed[system] for system in report.systems if system in placed}
    common = layers.pop() if len(layers) == 1 else layer_index("middle", report.depth)
    order = {lang: number for number, lang in enumerate(report.langs)}
    pairs = sorted(report.pairs, key=lambda p: order.get(p.source, 0))
    first = report.systems[0]
    for number, system in enumerate(report.systems, start=1):
        wanted = placed.get(system, common)
        layer = min(report.layers, key=lambda layer: abs(layer - wanted))
        values = _values_of_pairs(pairs, system, report.layers.index(layer))
        texts = (f"Language pairs: {system}", f"Layer {layer}.")
        axes = ("source", "target", "accuracy (%)")
        if system != first:
            before = _values_of_pairs(pairs, first, report.layers.index(layer))
            values = {pair: value - before[pair] for pair, value in values.items()}
            texts = (texts[0], f"Layer {layer}, accuracy minus that of {first}.")
            axes = ("source", "target", "gain in accuracy (points)")
        top = max(map(abs, values.values()), default=0.0) or 1.0
        low = 0.0 if system == first else -top
        rows = [{"source": s, "target": t, "value": v} for (s, t), v in values.items()]
        yield heat_map(rows, axes, f"{name}-pairs-{number}", texts, (low, top))


def _values_of_pairs(
    pairs: Sequence[PairScores], system: str, at: int
) -> dict[tuple[str, str], float]:
    return {(p.source, p.target): 100 * p.accuracy[at] for p in pairs if p.system == system}
