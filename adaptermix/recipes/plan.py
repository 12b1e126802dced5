"""The dry run of a recipe: what a run would do, and how much work it is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from adaptermix.errors import AdaptermixError
from adaptermix.recipes.compute import work_of
from adaptermix.recipes.keys import step_key
from adaptermix.recipes.report import RecipePlan, Status, StepPlan
from adaptermix.recipes.state import State
from adaptermix.recipes.step import Recipe, Step


def plan(recipe: Recipe, *, only: str | None = None, force: bool = False) -> RecipePlan:
    """Return what a run would do, and the problems that would stop it.

    Steps whose needs are finished are checked by their command's own dry run. For the others,
    the data is read and counted.

    Raises:
        ConfigError: The step does not exist.
    """
    state = State(recipe.out)
    chosen = chosen_steps(recipe, only)
    statuses = statuses_of(chosen, state, forced_steps(chosen, only, force))
    steps: list[StepPlan] = []
    problems: list[AdaptermixError] = []
    known: dict[str, dict[str, Any]] = {}  # seeds of one step have the same size
    for step in chosen.steps:
        cost: dict[str, Any] = {}
        problem = step.missing if statuses[step.name] != "finished" else None
        if statuses[step.name] != "finished" and not problem and not force:
            problem = _replaced_by(step, state)
        if statuses[step.name] != "finished" and not problem:
            try:
                step.command.check(step.call(), chosen.maker)
                alike = _without_seed(step)
                if alike not in known:
                    known[alike] = costs(step, is_ready=_is_ready(step, statuses))
                cost = known[alike]
                step.command.require(step.settings)
            except AdaptermixError as error:
                problem = step.blame(error)
        problems += [problem] if problem else []
        steps.append(
            StepPlan(
                name=step.name,
                command=step.command.name,
                status=statuses[step.name],
                needs=list(step.needs),
                cost=cost,
                out=str(step.out),
                problem=problem.message if problem else None,
            )
        )
    return RecipePlan(str(recipe.path), str(recipe.out), steps, problems)


def _replaced_by(step: Step, state: State) -> AdaptermixError | None:
    try:
        state.check_replaced(step)
    except AdaptermixError as error:
        return error
    return None


def _without_seed(step: Step) -> str:
    """Return a step's command, inputs and settings, without its seed and output."""
    settings = step.settings.as_text(without=("seed", "out"))
    return f"{step.command.name} {step.inputs} {settings}"


def chosen_steps(recipe: Recipe, only: str | None) -> Recipe:
    """Return the recipe, or one step of it with everything that it needs."""
    return recipe if only is None else recipe.with_needs(only)


def forced_steps(recipe: Recipe, only: str | None, force: bool) -> set[str]:
    """Return the names of the steps that run even if they have finished."""
    if not force:
        return set()
    return recipe.named(only) if only is not None else {step.name for step in recipe.steps}


def statuses_of(recipe: Recipe, state: State, forced: set[str]) -> dict[str, Status]:
    """Return whether each step must run, as far as this is known before its needs have run."""
    statuses: dict[str, Status] = {}
    for step in recipe.steps:
        if step.name in forced:
            statuses[step.name] = "to do"
        elif not _is_ready(step, statuses):
            waits = state.made(step) and step.out.exists()
            statuses[step.name] = "runs again if its inputs change" if waits else "to do"
        else:
            try:
                finished = state.is_finished(step, step_key(step, recipe.out))
            except AdaptermixError:  # a damaged input; the checks of the step report it
                finished = False
            statuses[step.name] = "finished" if finished else "to do"
    return statuses


def _is_ready(step: Step, statuses: Mapping[str, Status]) -> bool:
    return all(statuses[need] == "finished" for need in step.needs)


def check_steps(recipe: Recipe, statuses: Mapping[str, Status], state: State | None = None) -> None:
    """Check the steps to run and read their data, so that gaps show up before hours of work.

    The commands repeat these checks when they start.

    Args:
        recipe: The recipe.
        statuses: Whether each step must run.
        state: The stored state, to check that outputs were made by a recipe; None to replace them.

    Raises:
        AdaptermixError: A problem that would stop a step; it has the line in the recipe.
    """
    steps = [step for step in recipe.steps if statuses[step.name] != "finished"]
    for step in steps:
        if step.missing:
            raise step.missing
        if state is not None:
            state.check_replaced(step)
        with blaming(step):
            step.command.require(step.settings)
            step.command.check(step.call(), recipe.maker)
    for step in steps:
        with blaming(step):
            step.command.examples(step.settings)


@contextmanager
def blaming(step: Step) -> Iterator[None]:
    """Add the place in the recipe to errors that a step raises."""
    try:
        yield
    except AdaptermixError as error:
        raise step.blame(error) from error


# Fields of a dry run's record that describe a step's size.
_TELLING = ("examples", "planned_steps", "longest_prompt", "candidates", "rank", "modules")


def costs(step: Step, *, is_ready: bool) -> dict[str, Any]:
    """Return what is known of a step's size before it runs.

    Raises:
        AdaptermixError: A problem that would stop the step.
    """
    command = step.command
    examples = command.examples(step.settings)
    known: dict[str, Any] = {"examples": examples} if examples else {}
    known |= command.size(step.call(), examples)
    if is_ready and command.can_dry_run and command.is_installed(step.settings):
        record = command.perform(step.call(dry_run=True)).as_record()
        known |= {name: record[name] for name in _TELLING if record.get(name)}
    systems = known.pop("systems", len(known.get("candidates", ())))
    if systems:
        known["answers"] = systems * sum(examples.values())
    if work := work_of(command.name, step.settings, known):
        known |= {"flops": work.flops, "hours": work.hours}
    return known
