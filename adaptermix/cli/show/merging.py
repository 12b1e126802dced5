"""Show a merge or a search."""

from typing import TYPE_CHECKING

from rich.markup import escape

from adaptermix.cli.console import Table, results, say
from adaptermix.tables import shown, titled

if TYPE_CHECKING:
    from adaptermix.merging.merge import MergeReport
    from adaptermix.search.record import SearchPlan, SearchReport


def show_merge(report: "MergeReport") -> None:
    """Print what was merged from what."""
    table = Table(title=None, box=None, pad_edge=False)
    for name in ("adapter", "weight", "rank", "modules"):
        table.add_column(name, justify="left" if name == "adapter" else "right")
    for source in report.sources:
        weight = f"{source.weight:.6g}"
        table.add_row(escape(source.path), weight, str(source.rank), str(source.modules))
    results.print(table, highlight=False)
    results.print(
        f"{report.method} merge of rank {report.rank} in {report.modules} modules: "
        + ("" if report.written else "would write ")
        + escape(report.out),
        highlight=False,
    )
    if rules := report.weighting.get("rules"):
        say(f"modules that a rule matches have other weights ({len(rules)} in the weights file)")
    for source in report.sources:
        if source.inactive:
            effect = (
                "the others keep full strength"
                if report.inactive == "keep"
                else "the others have their weights all the same (--inactive keep changes that)"
            )
            say(
                f"{source.path} does nothing in {source.inactive} of {report.modules} modules; "
                f"there {effect}"
            )
    if report.relative_error:
        say(
            f"differs from the exact weighted sum by {100 * report.relative_error:.2f}% of its norm"
        )
    if report.cross_term_energy:
        say(f"cross terms carry {report.cross_term_energy:.2%} of the exact sum's energy")


def show_search_plan(plan: "SearchPlan") -> None:
    """Print what a search would do."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("candidates", escape(", ".join(plan.candidates)))
    table.add_row("dev examples", "  ".join(f"{lang} {n:,}" for lang, n in plan.examples.items()))
    table.add_row("longest prompt", f"{plan.longest_prompt:,} tokens")
    table.add_row("would write", f"{escape(plan.out)} and {escape(plan.folder)}")
    results.print(table, highlight=False)


def show_search(report: "SearchReport") -> None:
    """Print every candidate's score, and what was chosen."""
    metric = report.metric
    title = f"{report.task} dev: macro average of {titled(metric)}, {report.engine} engine"
    table = Table(title=escape(title))
    table.add_column("candidate")
    for name in ("score", "95% interval", "to the chosen one", "examples"):
        table.add_column(name, justify="right")
    for candidate in report.candidates:
        score, difference = candidate.score, candidate.difference.interval
        is_winner = candidate.name == report.winner
        table.add_row(
            ("[bold]" if is_winner else "") + escape(candidate.name),
            shown(metric, score.value),
            f"{shown(metric, score.low)} to {shown(metric, score.high)}",
            "chosen"
            if is_winner
            else f"{shown(metric, difference.value, '+')} "
            f"({shown(metric, difference.low, '+')} to {shown(metric, difference.high, '+')})",
            f"{candidate.examples:,}",
        )
    results.print(table, highlight=False)
    results.print(escape(report.verdict), highlight=False)
    say(
        f"examples decoded: {report.decoded:,} of the {report.exhaustive:,} that an exhaustive "
        f"search of the same candidates needs; {report.reused:,} were known from before"
    )
    for note in report.notes:
        say(f"note: {note}")
    show_merge(report.merge)
    say(f"record, weights and plot: {report.folder}")
