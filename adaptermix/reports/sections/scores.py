"""Sections about scores."""

from collections.abc import Mapping

from adaptermix.evaluation.comparison import ALL, Comparison
from adaptermix.evaluation.evaluate import EvalReport
from adaptermix.plots import difference_intervals, score_bars
from adaptermix.reports.runs import Run
from adaptermix.reports.sections.section import Section
from adaptermix.tables import Table, scaled, shown, titled


def glance_section(run: Run, name: str) -> Table:
    """Return the table that compares systems in one row each."""
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


def evaluation_section(name: str, run: Run, colors: Mapping[str, str]) -> Section:
    """Return the section about an evaluation."""
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
