"""The sections of a report: plots, tables and sentences about runs."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from adaptermix.adapters.card import data_of, made_of, model_name, sources_of
from adaptermix.adapters.format import layer_of
from adaptermix.adapters.inspection import AdapterReport, InspectReport, inspect
from adaptermix.errors import ConfigError
from adaptermix.evaluation.comparison import ALL, Comparison
from adaptermix.evaluation.evaluate import EvalReport
from adaptermix.models.blocks import layer_index
from adaptermix.plots import (
    PALETTE,
    Plot,
    colors_of,
    difference_intervals,
    heat_map,
    lines,
    scatter,
    score_bars,
)
from adaptermix.runs import Correlation, RetrievalReport, Run, Runs
from adaptermix.search.record import SearchReport, plot_of
from adaptermix.settings.reports import InspectSettings
from adaptermix.tables import Table, printable, ranges, scaled, shown, titled


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: Its anchor, and the stem of its plots' and tables' names.
        title: Its heading.
        texts: Paragraphs.
        plots: Plots, in order.
        tables: Tables, in order.
        notes: What to mind, in small letters.
    """

    name: str
    title: str
    texts: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def sections_of(runs: Runs) -> Iterator[Section]:
    """Yield the sections of a report: a summary, every run, and the adapters.

    Raises:
        ArtifactError: A damaged adapter, or adapters whose shapes differ.
    """
    inspected = inspect(runs.adapters, InspectSettings()) if runs.adapters else None
    names = [n for run in (*runs.evaluations, *runs.retrievals) for n in run.report.systems]
    names += [_name(adapter.path) for adapter in inspected.adapters] if inspected else []
    colors = colors_of(list(dict.fromkeys(["base", *names])))
    yield _summary(runs, inspected)
    parts: tuple[tuple[str, Sequence[Run], Callable[..., Section]], ...] = (
        ("scores", runs.evaluations, _evaluation),
        ("search", runs.searches, _search),
        ("retrieval", runs.retrievals, partial(_retrieval, inspected=inspected)),
    )
    for kind, found, section in parts:
        for number, run in enumerate(found, start=1):
            yield section(kind if len(found) == 1 else f"{kind}-{number}", run, colors)
    if inspected:
        yield _adapters("adapters", inspected, colors)


# Summary ------------------------------------------------------------------------------------------


def _summary(runs: Runs, inspected: InspectReport | None) -> Section:
    tables = []
    if inspected:
        tables.append(_provenance(inspected))
    for number, run in enumerate(runs.evaluations, start=1):
        name = "glance" if len(runs.evaluations) == 1 else f"glance-{number}"
        tables.append(_glance(run, name))
    texts = [_recipe(adapter) for adapter in inspected.adapters] if inspected else []
    return Section("summary", "Summary", [text for text in texts if text], [], tables)


def _recipe(adapter: AdapterReport) -> str:
    """Say in a sentence what a merge was made of."""
    record = adapter.record
    terms = made_of(record)
    if not terms:
        return ""
    sum_ = " + ".join(f"{weight:g} × {name}" for name, weight in terms)
    text = f"{_name(adapter.path)} is the {record.get('method', 'exact')} merge {sum_}"
    rules = (
        record.get("weighting", {}).get("rules")
        if isinstance(record.get("weighting"), dict)
        else None
    )
    return text + (", with other weights in some modules." if rules else ".")


def _provenance(inspected: InspectReport) -> Table:
    rows = []
    for adapter in inspected.adapters:
        record = adapter.record
        terms = made_of(record)
        made = " + ".join(f"{weight:g} × {name}" for name, weight in terms) or data_of(record)
        rows.append(
            [
                _name(adapter.path),
                printable(str(record.get("command", "not recorded"))),
                printable(made) or "not recorded",
                model_name(adapter.base),
                ", ".join(map(str, adapter.ranks)),
                ranges(adapter.active_layers),
                f"{adapter.norm:.4g}",
                adapter.blake3[:12],
            ]
        )
    columns = ["adapter", "made by", "from", "base", "rank", "layers", "norm", "BLAKE3"]
    return Table("adapters-made", "What was made from what", columns, rows)


def _glance(run: Run, name: str) -> Table:
    report: EvalReport = run.report
    metric = report.cells[0].score.name
    against = {c.system: c for c in report.comparisons if c.over == ALL}
    langs = [c for c in report.comparisons if c.over in report.langs]
    rows = []
    for system in report.systems:
        mine = [c for c in langs if c.system == system and c.excludes_zero]
        better = sum(c.difference > 0 for c in mine)
        counts = f"{better} / {len(mine) - better}" if system in against else "baseline"
        difference = _difference(against[system], metric) if system in against else ""
        rows.append([system, shown(metric, report.macro[system]), difference, counts])
    columns = ["system", titled(metric), "difference, 95% interval", "languages better / worse"]
    note = (
        "Averages over languages. A language counts as better or worse where its interval excludes "
        "zero."
    )
    title = f"{run.name}: {report.task} {report.split}, {len(report.langs)} languages"
    return Table(name, title, columns, rows, note)


def _difference(comparison: Comparison, metric: str) -> str:
    seen, low, high = (
        shown(metric, value, "+")
        for value in (comparison.difference, comparison.low, comparison.high)
    )
    return f"{seen} [{low}, {high}]" + (" *" if comparison.excludes_zero else "")


# Scores -------------------------------------------------------------------------------------------


def _evaluation(name: str, run: Run, colors: Mapping[str, str]) -> Section:
    report: EvalReport = run.report
    metric = report.cells[0].score.name
    own = {system: colors[system] for system in report.systems}
    rows = [
        {"lang": cell.lang, "system": cell.system, "score": scaled(metric, cell.score.value)}
        for cell in report.cells
    ]
    plots = [score_bars(rows, own, titled(metric), f"{name}-languages")]
    tables = [_score_table(report, metric, f"{name}-table")]
    if report.comparisons:
        baseline = report.comparisons[0].baseline
        against = {system: own[system] for system in report.systems if system != baseline}
        differences = [
            {
                "over": c.over,
                "system": c.system,
                **{k: scaled(metric, getattr(c, k)) for k in ("difference", "low", "high")},
            }
            for c in report.comparisons
        ]
        label = f"{titled(metric)}, difference to {baseline}"
        plots.append(difference_intervals(differences, against, label, f"{name}-differences"))
        tables.append(_difference_table(report, metric, f"{name}-difference-table"))
    counts = _counts(report, f"{name}-counts")
    signatures = dict.fromkeys(s.signature for cell in report.cells for s in cell.scores.values())
    texts = [f"{report.task}, {report.split} data, {report.engine} engine."]
    notes = [*report.notes, *signatures]
    return Section(name, f"Scores: {run.name}", texts, plots, [*tables, *counts], notes)


def _score_table(report: EvalReport, metric: str, name: str) -> Table:
    names = list(report.cells[0].scores) or [metric]
    columns = ["", *report.systems]
    rows = []
    for number, other in enumerate(names):
        label = f" ({titled(other)})" if len(names) > 1 else ""
        for lang in report.langs:
            cells = [report.cell(system, lang) for system in report.systems]
            values = [c.scores[other].value if other in c.scores else c.score.value for c in cells]
            rows.append([lang + label, *(shown(other, value) for value in values)])
        if number == 0:
            for over, means in [*report.group_macro.items(), (ALL, report.macro)]:
                rows.append([over + label, *(shown(metric, means[s]) for s in report.systems)])
    return Table(name, titled(metric), columns, rows)


def _difference_table(report: EvalReport, metric: str, name: str) -> Table:
    systems = list(dict.fromkeys(c.system for c in report.comparisons))
    found = {(c.over, c.system): c for c in report.comparisons}
    overs = list(dict.fromkeys(c.over for c in report.comparisons))
    columns = ["", *(f"{system}{end}" for system in systems for end in ("", ", p"))]
    rows = [
        [
            over,
            *(
                text
                for system in systems
                for text in _difference_cells(found.get((over, system)), metric)
            ),
        ]
        for over in overs
    ]
    note = (
        f"Differences to {report.comparisons[0].baseline} with 95% intervals and p-values of the "
        "paired bootstrap; * where the interval excludes zero. P-values are not corrected for "
        "the number of comparisons."
    )
    return Table(name, "Differences", columns, rows, note)


def _difference_cells(comparison: Comparison | None, metric: str) -> list[str]:
    if comparison is None:
        return ["-", "-"]
    return [_difference(comparison, metric), f"{comparison.p_value:.3f}"]


def _counts(report: EvalReport, name: str) -> list[Table]:
    """Count what happened to answers and prompts, where anything did."""
    fields = {
        "malformed answers": "malformed",
        "cut answers": "cut_answers",
        "truncated prompts": "truncated_prompts",
    }
    rows = []
    for label, attribute in fields.items():
        sums = [
            sum(getattr(c, attribute) for c in report.cells if c.system == system)
            for system in report.systems
        ]
        if any(sums):
            rows.append([label, *(f"{count:,}" for count in sums)])
    examples = [
        sum(c.examples for c in report.cells if c.system == system) for system in report.systems
    ]
    rows.append(["examples", *(f"{count:,}" for count in examples)])
    if len(rows) == 1:
        return []
    return [Table(name, "What happened to answers", ["", *report.systems], rows)]


# Search -------------------------------------------------------------------------------------------


def _search(name: str, run: Run, colors: Mapping[str, str]) -> Section:
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


# Retrieval ----------------------------------------------------------------------------------------


def _retrieval(
    name: str, run: Run, colors: Mapping[str, str], *, inspected: InspectReport | None
) -> Section:
    report: RetrievalReport = run.report
    own = {system: colors[system] for system in report.systems}
    plots = [
        _by_layer(report, f"{name}-layers"),
        _before_and_after(report, own, f"{name}-systems"),
        *_placement(report, inspected, f"{name}-placement"),
        *(
            _correlation(c, f"{name}-correlation-{number}")
            for number, c in enumerate(_drawn(report.correlations), start=1)
        ),
        *_language_pairs(report, name),
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
        [_aggregate_table(report, f"{name}-aggregates"), *_correlation_table(report, name)],
        report.notes,
    )


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
                layers[_name(adapter.path)] = layer_index(settings.get("layer") or "middle", depth)
    return layers


def _drawn(correlations: Sequence[Correlation]) -> list[Correlation]:
    """Choose those that are plotted: over all languages, at the middle layer as figure 1b.

    Where one side does not vary there is nothing to see.
    """
    over_all = [c for c in correlations if c.over == "all" and c.pearson.r is not None]
    readings = [c.reading for c in over_all]
    drawn = ["middle layer"] if "middle layer" in readings else readings[:1]
    return [c for c in over_all if c.reading in drawn]


def _correlation(found: Correlation, name: str) -> Plot:
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


def _coefficients(found: Correlation) -> str:
    parts = [
        f"{label} undefined"
        if c.r is None or c.p_value is None
        else f"{label} {c.r:+.2f} (p = {c.p_value:.2g})"
        for label, c in (("Pearson", found.pearson), ("Spearman", found.spearman))
    ]
    return f"{found.over}: {', '.join(parts)}, {len(found.points)} languages"


def _language_pairs(report: RetrievalReport, name: str) -> Iterator[Plot]:
    """Draw a heat map of language pairs for every system, at the layer where the first is best."""
    overall = next((r for r in report.by_layer if r.over == "all"), None)
    if overall is None or not report.layers:
        return
    at = max(range(len(report.layers)), key=overall.accuracy.__getitem__)
    order = {lang: number for number, lang in enumerate(report.langs)}
    top = 100 * (max((p.accuracy[at] for p in report.pairs), default=0) or 1.0)
    for number, system in enumerate(report.systems, start=1):
        rows = [
            {"source": p.source, "target": p.target, "value": 100 * p.accuracy[at]}
            for p in sorted(report.pairs, key=lambda p: order.get(p.source, 0))
            if p.system == system
        ]
        texts = (
            f"Language pairs: {system}",
            f"Layer {report.layers[at]}, where {overall.system} is best.",
        )
        yield heat_map(
            rows, ("source", "target", "accuracy (%)"), f"{name}-pairs-{number}", texts, top
        )


def _aggregate_table(report: RetrievalReport, name: str) -> Table:
    keys = list(dict.fromkeys((a.over, a.reading) for a in report.aggregates))
    found = {(a.system, a.over, a.reading): a for a in report.aggregates}
    rows = []
    for over, reading in keys:
        cells = [found.get((system, over, reading)) for system in report.systems]
        rows.append(
            [
                f"{over}, {reading}",
                *(f"{100 * a.accuracy:.1f} / {100 * a.mexa:.1f}" if a else "-" for a in cells),
            ]
        )
    note = "In percent: retrieval accuracy / MEXA."
    return Table(name, "Retrieval accuracy", ["", *report.systems], rows, note)


def _correlation_table(report: RetrievalReport, name: str) -> list[Table]:
    if not report.correlations:
        return []
    rows = [
        [f"{c.system} / {c.scored} {titled(c.metric)}", c.over, c.reading, *_numbers(c)]
        for c in report.correlations
    ]
    columns = ["retrieval / score", "over", "reading", "Pearson r", "p", "Spearman r", "p", "n"]
    return [Table(f"{name}-correlations", "Correlation with scores", columns, rows)]


def _numbers(found: Correlation) -> list[str]:
    values = [n for c in (found.pearson, found.spearman) for n in (c.r, c.p_value)]
    return [*("-" if n is None else f"{n:.3g}" for n in values), str(len(found.points))]


# Adapters -----------------------------------------------------------------------------------------


def _adapters(name: str, inspected: InspectReport, colors: Mapping[str, str]) -> Section:
    names = [_name(adapter.path) for adapter in inspected.adapters]
    blocks = [(layer, row) for row in inspected.layers if (layer := layer_of(row.name)) is not None]
    norms = [
        {"layer": layer, "value": value, "line": names[at]}
        for at in range(len(names))
        for layer, row in blocks
        if (value := row.norms[at]) is not None
    ]
    texts = (
        "Norm of delta weights by layer",
        "Frobenius norm of what an adapter adds to the base.",
    )
    own = {adapter: colors[adapter] for adapter in names}
    plots = [lines(norms, own, ("layer", "norm"), f"{name}-norms", texts)]
    tables = []
    pairs = [pair for pair in inspected.pairs if not _share_an_origin(inspected, pair)]
    met = [
        (f"{names[pair[0]]} and {names[pair[1]]}", layer, comparison)
        for pair in pairs
        for layer, row in blocks
        if (comparison := row.comparison(pair)) is not None
    ]
    if met:
        labels = list(dict.fromkeys(label for label, _, _ in met))
        hues = dict(zip(labels, PALETTE[1:], strict=False))  # more lines than colors tell nothing
        drawn = [row for row in met if row[0] in hues]
        first = f" The first {len(hues)} of {len(labels)} pairs." if len(hues) < len(labels) else ""
        cosines = [{"layer": at, "value": c.cosine, "line": label} for label, at, c in drawn]
        overlaps = [
            {"layer": at, "value": value, "line": label, "part": side, "kind": kind}
            for label, at, c in drawn
            for side, kind, value in (
                ("out", "measured", c.overlap_out),
                ("out", "random", c.random_out),
                ("in", "measured", c.overlap_in),
                ("in", "random", c.random_in),
            )
        ]
        text = f"Above 0 the delta weights add up in a merge, below 0 they cancel.{first}"
        plots.append(
            lines(cosines, hues, ("layer", "cosine"), f"{name}-cosine", ("Cosine by layer", text))
        )
        text = (
            "Of the directions they write to (out) and read from (in): 1 where one subspace lies "
            f"in the other. Dashed: random subspaces.{first}"
        )
        plots.append(
            lines(
                overlaps, hues, ("layer", "overlap"), f"{name}-overlap", ("Overlap by layer", text)
            )
        )
        tables.append(_interference_table(met, f"{name}-interference"))
    return Section(name, "Adapters", [], plots, tables, inspected.notes)


def _share_an_origin(inspected: InspectReport, pair: tuple[int, int]) -> bool:
    """Whether two adapters are merges of the same, or one of the other: they meet anyway."""
    one, other = (
        {adapter.blake3, *(source.get("blake3") for source in sources_of(adapter.record))}
        for adapter in (inspected.adapters[at] for at in pair)
    )
    return bool(one & other)


def _interference_table(met: Iterable[tuple[str, int, Any]], name: str) -> Table:
    rows = [
        [
            f"{label}, layer {layer}",
            f"{c.cosine:+.3f}",
            *(f"{n:.4f}" for n in (c.overlap_out, c.random_out, c.overlap_in, c.random_in)),
        ]
        for label, layer, c in met
    ]
    columns = ["adapters", "cosine", "overlap out", "random", "overlap in", "random"]
    return Table(name, "Interference by layer", columns, rows)


def _name(path: str) -> str:
    """Return the name of an adapter as ``eval`` has it."""
    return printable(Path(path).resolve().name.removesuffix(".safetensors"))
