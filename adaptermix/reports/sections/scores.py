"""Sections about scores."""

from collections.abc import Mapping
from dataclasses import replace

from adaptermix.evaluation.report import (
    EvalReport,
    baseline_sentence,
    count_table,
    difference_table,
    score_table,
)
from adaptermix.plots import difference_intervals, score_bars
from adaptermix.reports.runs import Run
from adaptermix.reports.sections.section import Section
from adaptermix.tables import scaled, titled


def evaluation_section(name: str, run: Run, colors: Mapping[str, str]) -> Section:
    """Return the section about an evaluation."""
    report: EvalReport = run.report
    metric = report.cells[0].score.name
    own = {system: colors[system] for system in report.systems}
    rows = [
        {"lang": cell.lang, "system": cell.system, "score": scaled(metric, cell.score.value)}
        for cell in report.cells
    ]
    baseline = baseline_sentence(report)
    plots = [score_bars(rows, own, titled(metric), f"{name}-languages", baseline)]
    others = [other for other in report.cells[0].scores if other != metric]
    tables = [
        replace(score_table(report), name=f"{name}-table"),
        *(replace(score_table(report, m), name=f"{name}-table-{m}") for m in others),
    ]
    if report.comparisons:
        against = {s: own[s] for s in report.systems if s != report.reference}
        differences = [
            {
                "over": c.over,
                "system": c.system,
                **{k: scaled(metric, getattr(c, k)) for k in ("difference", "low", "high")},
            }
            for c in report.comparisons
        ]
        label = f"{titled(metric)}, difference to {report.reference}"
        test = f"{report.test.interval}, {report.test.name}" if report.test else "95% interval"
        caption = (baseline, test)
        plot = difference_intervals(differences, against, label, f"{name}-differences", caption)
        plots.append(plot)
        tables.append(replace(difference_table(report), name=f"{name}-difference-table"))
    if counts := count_table(report):
        tables.append(replace(counts, name=f"{name}-counts"))
    signatures = dict.fromkeys(s.signature for cell in report.cells for s in cell.scores.values())
    texts = [f"{report.task}, {report.split} data, {report.engine} engine."]
    notes = [*report.notes, *signatures, *([report.test.signature] if report.test else [])]
    return Section(name, f"Scores: {run.name}", texts, plots, tables, notes)
