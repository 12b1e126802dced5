"""Show evaluations and scores."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from adaptermix.cli.console import Table, results, say
from adaptermix.tables import shown, titled

if TYPE_CHECKING:
    from adaptermix.evaluation.comparison import Comparison
    from adaptermix.evaluation.evaluate import EvalPlan, EvalReport
    from adaptermix.evaluation.score import ScoreReport


def show_plan(plan: "EvalPlan") -> None:
    """Print what an evaluation would do."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("systems", escape(" ".join(plan.systems)))
    table.add_row("examples", "  ".join(f"{lang} {n:,}" for lang, n in plan.examples.items()))
    table.add_row("longest prompt", f"{plan.longest_prompt:,} tokens")
    table.add_row("would write", escape(plan.out))
    results.print(table, highlight=False)


def show_evaluation(report: "EvalReport") -> None:
    """Print every system's score, language by language, and the mean over languages."""
    metric = report.cells[0].score.name
    title = f"{report.task} {report.split}: {titled(metric)}, {report.engine} engine"
    table = Table(title=escape(title))
    table.add_column("language")
    for system in report.systems:
        table.add_column(escape(system), justify="right")
    for lang in report.langs:
        cells = [report.cell(system, lang) for system in report.systems]
        table.add_row(escape(lang), *(shown(metric, cell.score.value) for cell in cells))
    table.add_section()
    for name, means in [*report.group_macro.items(), ("macro average", report.macro)]:
        table.add_row(escape(name), *(shown(metric, means[s]) for s in report.systems))
    _add_counts(table, report)
    results.print(table, highlight=False)
    for signature in {cell.score.signature: None for cell in report.cells}:
        results.print(escape(signature), highlight=False)
    if report.comparisons:
        show_comparisons(report.comparisons, metric)
    for note in report.notes:
        say(f"note: {note}")
    if report.reused:
        say(f"{report.reused:,} answers were known from earlier runs, {report.decoded:,} decoded")
    say(f"scores and predictions: {report.out}")


def _add_counts(table: Table, report: "EvalReport") -> None:
    """Add what happened to answers and prompts, where anything did."""
    for label, field in (
        ("malformed answers", "malformed"),
        ("cut answers", "cut_answers"),
        ("truncated prompts", "truncated_prompts"),
    ):
        sums = [
            sum(getattr(c, field) for c in report.cells if c.system == s) for s in report.systems
        ]
        if any(sums):
            table.add_row(label, *(f"{count:,}" for count in sums))


def show_scores(report: "ScoreReport") -> None:
    """Print every metric with its signature, and what was counted."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, score in report.metrics.items():
        table.add_row(titled(name), shown(name, score.value))
    for name, count in report.counts.items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    results.print(table, highlight=False)
    for score in report.metrics.values():
        results.print(escape(score.signature), highlight=False)


def show_comparisons(comparisons: "Sequence[Comparison]", metric: str) -> None:
    """Print differences to the baseline, with a star where the interval excludes zero."""
    systems = list(dict.fromkeys(comparison.system for comparison in comparisons))
    title = f"difference to {comparisons[0].baseline}, 95% interval, p-value"
    table = Table(title=escape(title))
    table.add_column("")
    for system in systems:
        table.add_column(escape(system), justify="right")
    rows: dict[str, list[str]] = {}
    for comparison in comparisons:
        rows.setdefault(comparison.over, []).append(_difference(comparison, metric))
    averages = [c.over for c in comparisons if [c.over] != c.langs]
    for over, cells in rows.items():
        if averages and over == averages[0]:
            table.add_section()
        table.add_row(escape(over), *cells)
    results.print(table, highlight=False)
    say("* the interval excludes zero: paired bootstrap over 1,000 resamples")


def _difference(comparison: "Comparison", metric: str) -> str:
    seen, low, high = (
        shown(metric, value, "+")
        for value in (comparison.difference, comparison.low, comparison.high)
    )
    text = f"{seen} {escape(f'[{low}, {high}]')} {comparison.p_value:.3f}"
    return f"[bold]{text} *[/]" if comparison.excludes_zero else f"{text}  "
