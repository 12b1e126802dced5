"""Show recipes and reports."""

from typing import TYPE_CHECKING, Any

from rich.markup import escape

from adaptermix.cli.console import Table, results

if TYPE_CHECKING:
    from adaptermix.recipes.plan import RecipePlan
    from adaptermix.recipes.run import RecipeReport
    from adaptermix.reports.page import ReportSummary


def show_recipe(report: "RecipeReport") -> None:
    """Print what became of every step."""
    table = Table(box=None, pad_edge=False)
    for name in ("step", "command", "", "time", "output"):
        table.add_column(name, justify="right" if name == "time" else "left")
    for step in report.steps:
        time = f"{step.seconds:,.0f} s" if step.status == "done" else ""
        table.add_row(step.name, step.command, step.status, time, escape(step.out))
    results.print(table, highlight=False)


def show_recipe_plan(plan: "RecipePlan") -> None:
    """Print what a run of a recipe would do with every step."""
    table = Table(box=None, pad_edge=False)
    for name in ("step", "command", "", "after", "size"):
        table.add_column(name)
    for step in plan.steps:
        size = "cannot run, see below" if step.problem else _size(step.cost)
        table.add_row(step.name, step.command, step.status, ", ".join(step.needs), escape(size))
    results.print(table, highlight=False)
    results.print(f"would write to {escape(plan.out)}", highlight=False)


def _size(cost: dict[str, Any]) -> str:
    """Write what is known of a step's size in a few words."""
    parts = []
    if examples := cost.get("examples"):
        langs = f"{len(examples)} languages" if len(examples) > 1 else next(iter(examples))
        parts.append(f"{sum(examples.values()):,} examples in {langs}")
    if steps := cost.get("planned_steps"):
        parts.append(f"at most {steps:,} steps")
    if candidates := cost.get("candidates"):
        parts.append(f"{len(candidates)} candidates")
    if answers := cost.get("answers"):
        parts.append(f"at most {answers:,} answers")
    if modules := cost.get("modules"):
        parts.append(f"rank {cost['rank']} in {modules} modules")
    return ", ".join(parts)


def show_report(summary: "ReportSummary") -> None:
    """Print what a report was made of, and where it is."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for run in summary.runs:
        table.add_row("run", escape(run))
    for adapter in summary.adapters:
        table.add_row("adapter", escape(adapter))
    table.add_row("plots", str(len(summary.plots)))
    table.add_row("tables", str(len(summary.tables)))
    table.add_row("examples", f"{summary.examples:,}")
    done = "report" if summary.written else "would write"
    table.add_row(done, escape(f"{summary.out}, {summary.bytes / 1e6:.1f} MB"))
    if summary.export:
        table.add_row("plots and tables" if summary.written else done, escape(summary.export))
    results.print(table, highlight=False)
