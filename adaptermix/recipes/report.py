"""The reports of a recipe's plan and run, and how they are shown."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from adaptermix.adapters.seeds import several_seeds
from adaptermix.errors import AdaptermixError
from adaptermix.files.outputs import Report
from adaptermix.recipes.compute import ASSUMED, shown_flops, shown_hours
from adaptermix.tables import Table, View, noted, number_of


@dataclass(frozen=True)
class StepReport:
    """A finished step.

    Attributes:
        status: Whether it finished in this run or before.
        seconds: Run time in seconds.
        record: The command's report, without times and counts of the run.
    """

    name: str
    command: str
    status: Literal["done", "done before"]
    seconds: float
    out: str
    record: dict[str, Any]


def _needed(needs: list[str]) -> str:
    """Format the needs of a step; several seeds of one step become ``task-seed-1, 2, 3``."""
    families = several_seeds(needs)
    members = {name: seeds for seeds in families.values() for name in seeds.values()}
    written = []
    for name in needs:
        seeds = list(members.get(name, {}).items())
        if not seeds:
            written.append(name)
        elif name == seeds[0][1]:
            written.append(", ".join([name, *(str(seed) for seed, _ in seeds[1:])]))
    return ", ".join(written)


def _size(step: "StepPlan") -> str:
    """Summarize a step's size, and say if it cannot run."""
    cost = step.cost
    parts = []
    if examples := cost.get("examples"):
        langs = f"{len(examples)} languages" if len(examples) > 1 else next(iter(examples))
        parts.append(f"{number_of(sum(examples.values()), 'example')} in {langs}")
    if steps := cost.get("planned_steps"):
        parts.append(f"at most {number_of(steps, 'step')}")
    if candidates := cost.get("candidates"):
        parts.append(number_of(len(candidates), "candidate"))
    if answers := cost.get("answers"):
        parts.append(f"at most {number_of(answers, 'answer')}")
    if modules := cost.get("modules"):
        parts.append(f"rank {cost['rank']} in {number_of(modules, 'module')}")
    if flops := cost.get("flops"):
        parts.append(f"{shown_flops(flops)}, {shown_hours(cost['hours'])} on an A100")
    if step.problem:
        parts.append("cannot run; see below")
    return ", ".join(parts)


Status = Literal["finished", "to do", "runs again if its inputs change"]


@dataclass(frozen=True)
class StepPlan:
    """What a run would do with a step.

    Attributes:
        needs: Steps whose outputs it reads.
        cost: Its known size: examples, steps, candidates, answers.
        problem: Why it could not run now, with file and line.
    """

    name: str
    command: str
    status: Status
    needs: list[str]
    cost: dict[str, Any]
    out: str
    problem: str | None = None


@dataclass(frozen=True)
class RecipePlan(Report):
    """What a run of a recipe would do (dry run)."""

    recipe: str
    out: str
    steps: list[StepPlan]
    problems: list[AdaptermixError] = field(default_factory=list)

    def view(self) -> View:
        """Show what a run of a recipe would do with every step."""
        rows = [
            [step.name, step.command, step.status, _needed(step.needs), _size(step)]
            for step in self.steps
        ]
        columns = ["step", "command", "", "after", "size"]
        table = Table("steps", "", columns, rows, align="lllll")
        notes = [ASSUMED] if any("flops" in step.cost for step in self.steps) else []
        return View([table, f"would write to {self.out}"], noted(notes))

    def as_record(self) -> dict[str, Any]:
        """Return the plan as a dictionary for JSON."""
        steps = [asdict(step) for step in self.steps]
        return {"recipe": self.recipe, "out": self.out, "steps": steps}


@dataclass(frozen=True)
class RecipeReport(Report):
    """The result of a recipe's run."""

    recipe: str
    out: str
    steps: list[StepReport]

    def view(self) -> View:
        """Show the status of every step after a run."""
        rows = [
            [
                step.name,
                step.command,
                step.status,
                f"{step.seconds:,.0f} s" if step.status == "done" else "",
                step.out,
            ]
            for step in self.steps
        ]
        columns = ["step", "command", "", "time", "output"]
        return View([Table("steps", "", columns, rows, align="lllrl")])
