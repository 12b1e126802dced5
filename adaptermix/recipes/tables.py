"""Recipes as tables."""

from typing import TYPE_CHECKING

from adaptermix.tables import Table, View

if TYPE_CHECKING:
    from adaptermix.recipes.plan import RecipePlan, StepPlan
    from adaptermix.recipes.run import RecipeReport


def recipe_view(report: "RecipeReport") -> View:
    """Show what became of every step."""
    rows = [
        [
            *(step.name, step.command, step.status),
            f"{step.seconds:,.0f} s" if step.status == "done" else "",
            step.out,
        ]
        for step in report.steps
    ]
    columns = ["step", "command", "", "time", "output"]
    return View([Table("steps", "", columns, rows, align="lllrl")])


def plan_view(plan: "RecipePlan") -> View:
    """Show what a run of a recipe would do with every step."""
    rows = [
        [
            *(step.name, step.command, step.status, ", ".join(step.needs)),
            _size(step),
        ]
        for step in plan.steps
    ]
    columns = ["step", "command", "", "after", "size"]
    table = Table("steps", "", columns, rows, align="lllll")
    return View([table, f"would write to {plan.out}"])


def _size(step: "StepPlan") -> str:
    """Write what is known of a step's size in a few words, and whether it cannot run here."""
    cost = step.cost
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
    if step.problem:
        parts.append("cannot run, see below")
    return ", ".join(parts)
