"""What a run of a recipe would do, and how much work it is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from adaptermix.commands import RUNNERS, Work
from adaptermix.errors import AdaptermixError
from adaptermix.files.outputs import Report
from adaptermix.recipes.keys import step_key
from adaptermix.recipes.state import State
from adaptermix.recipes.step import Recipe, Step

Status = Literal["finished", "to do", "to do if its inputs change"]


@dataclass(frozen=True)
class StepPlan:
    """What a run would do with a step.

    Attributes:
        needs: Steps whose outputs it reads.
        cost: What is known of its size: examples, steps, candidates, answers.
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
    """What a run of a recipe would do."""

    recipe: str
    out: str
    steps: list[StepPlan]
    problems: list[AdaptermixError] = field(default_factory=list)

    def as_record(self) -> dict[str, Any]:
        """Return the plan as a dictionary for JSON."""
        steps = [asdict(step) for step in self.steps]
        return {"recipe": self.recipe, "out": self.out, "steps": steps}


def plan(recipe: Recipe, *, only: str | None = None, force: bool = False) -> RecipePlan:
    """Say what a run would do, and what would stop it.

    Steps that need no output still to be made are tried by their command's own dry run. Of the
    others the data is read and counted.

    Raises:
        ConfigError: No such step.
    """
    from adaptermix.recipes.checks import check_ahead

    state = State(recipe.out)
    chosen = chosen_steps(recipe, only)
    statuses = statuses_of(chosen, state, forced_steps(chosen, only, force))
    steps: list[StepPlan] = []
    problems: list[AdaptermixError] = []
    for step in chosen.steps:
        cost: dict[str, Any] = {}
        problem = step.missing if statuses[step.name] != "finished" else None
        if statuses[step.name] != "finished" and not problem:
            try:
                check_ahead(step, chosen)
                cost = costs(step, is_ready=_is_ready(step, statuses))
            except AdaptermixError as error:
                problem = step.blame(error)
        problems += [problem] if problem else []
        steps.append(
            StepPlan(
                name=step.name,
                command=step.command,
                status=statuses[step.name],
                needs=list(step.needs),
                cost=cost,
                out=str(step.out),
                problem=problem.message if problem else None,
            )
        )
    return RecipePlan(str(recipe.path), str(recipe.out), steps, problems)


def carry_out(step: Step, settings: Any, **options: Any) -> Any:
    """Run a step's command."""
    work = Work(settings, [Path(path) for path in step.inputs], step.out, **options)
    return RUNNERS[step.command](work)


def chosen_steps(recipe: Recipe, only: str | None) -> Recipe:
    """Return the recipe, or the part of it that one step needs."""
    return recipe if only is None else recipe.with_needs(only)


def forced_steps(recipe: Recipe, only: str | None, force: bool) -> set[str]:
    """Return the names of the steps that run even if they have finished."""
    if not force:
        return set()
    return {only} if only is not None else {step.name for step in recipe.steps}


def statuses_of(recipe: Recipe, state: "State", forced: set[str]) -> dict[str, Status]:
    """Say of every step whether it must run, as far as its needs are there to tell."""
    statuses: dict[str, Status] = {}
    for step in recipe.steps:
        if step.name in forced:
            statuses[step.name] = "to do"
        elif not _is_ready(step, statuses):
            waits = state.made(step) and step.out.exists()
            statuses[step.name] = "to do if its inputs change" if waits else "to do"
        else:
            finished = state.is_finished(step, step_key(step, recipe.out))
            statuses[step.name] = "finished" if finished else "to do"
    return statuses


def _is_ready(step: Step, statuses: Mapping[str, Status]) -> bool:
    return all(statuses[need] == "finished" for need in step.needs)


def check_steps(recipe: Recipe, statuses: Mapping[str, Status]) -> None:
    """Check steps to come and read their data: a gap is seen before the first hour, not after."""
    from adaptermix.recipes.checks import check_ahead

    steps = [step for step in recipe.steps if statuses[step.name] != "finished"]
    for step in steps:
        if step.missing:
            raise step.missing
        with blaming(step):
            check_ahead(step, recipe)
    for step in steps:
        with blaming(step):
            count_examples(step.settings)


@contextmanager
def blaming(step: Step) -> Iterator[None]:
    """Say of an error where in the recipe its cause stands."""
    try:
        yield
    except AdaptermixError as error:
        raise step.blame(error) from error


def costs(step: Step, *, is_ready: bool) -> dict[str, Any]:
    """Return what is known of a step's size before it runs.

    Raises:
        AdaptermixError: What would stop the step.
    """
    settings: Any = step.settings
    examples = count_examples(settings)
    known: dict[str, Any] = {"examples": examples} if examples else {}
    if is_ready and step.command not in ("score", "inspect"):
        record = carry_out(step, settings, dry_run=True).as_record()
        telling = ("examples", "planned_steps", "longest_prompt", "candidates", "rank", "modules")
        known |= {name: record[name] for name in telling if record.get(name)}
    elif hasattr(settings, "epochs"):
        known["planned_steps"] = planned_steps(settings, examples)
    if "candidates" not in known and getattr(settings, "search", None):
        from adaptermix.search.candidates import first_candidates

        names = [Path(path).name.removesuffix(".safetensors") for path in step.inputs]
        known["candidates"] = [found.name for found in first_candidates(names, settings)]
    systems = len(known.get("candidates", ()))
    if step.command == "eval":
        systems = len(settings.adapters) + (not settings.exclude_base)
    if systems:
        known["answers"] = systems * sum(examples.values())
    return known


def planned_steps(settings: Any, examples: Mapping[str, int]) -> int:
    """Return the optimizer steps of a training at most, by the number of its examples."""
    if settings.max_steps:
        return int(settings.max_steps)
    rows = sum(examples.values())
    fields = type(settings).model_fields
    if "alternate" in fields:  # as many pairs as task examples
        rows = 2 * sum(count for name, count in examples.items() if name not in settings.pairs)
    elif "pairs" in fields:  # languages are repeated up to the largest
        rows = max(examples.values()) * len(examples)
    return max(1, int(settings.epochs * -(-rows // settings.batch_size)))


def count_examples(settings: Any) -> dict[str, int]:
    """Return how many examples a step reads of each language, before any are held out.

    Raises:
        DataError: A language without data, a missing or malformed file.
        ResourceError: Data that must come from the hub and cannot.
    """
    counts: dict[str, int] = {}
    fields = type(settings).model_fields
    limit = getattr(settings, "limit", None)
    if "pairs" in fields:
        folder = settings.pairs_dir or settings.data_dir
        counts |= {pair: _count_pairs(pair, folder) for pair in settings.pairs}
    if "pivot" in fields and settings.data_dir is not None:
        counts |= _count_sentences(settings.langs, settings.split, settings.data_dir)
    if "langs" in fields and "task" in fields and _asks_data(settings):
        for split in reversed(_splits(settings)):
            for lang in settings.langs:
                counts[lang] = _count_task(settings, lang, split)
    return {lang: min(count, limit or count) for lang, count in counts.items()}


def _asks_data(settings: Any) -> bool:
    """Whether a command that can read a task's data does: a merge only when it searches."""
    is_chat = getattr(settings, "chat", None) is not None
    return not is_chat and getattr(settings, "search", "none") is not None


def _splits(settings: Any) -> tuple[str, ...]:
    """Return the parts of the data that are read, the one that is counted first."""
    if hasattr(settings, "epochs"):
        return ("train", "dev")
    return (getattr(settings, "split", "dev"),)


@cache
def _count_pairs(pair: str, folder: Path | None) -> int:
    from adaptermix.data.pairs import read_pairs

    return len(read_pairs(pair, folder))


def _count_task(settings: Any, lang: str, split: str) -> int:
    if getattr(settings, "src", None) is not None:
        from adaptermix.tasks.translation import read_translations

        return len(read_translations(settings.src, settings.ref, lang))
    return _count_records(settings.task, lang, split, settings.data_dir)


@cache
def _count_sentences(langs: tuple[str, ...], split: str, folder: Path) -> dict[str, int]:
    from adaptermix.data.multiway import read_multiway

    return {lang: len(texts) for lang, texts in read_multiway(langs, split, folder).items()}


@cache
def _count_records(task: str, lang: str, split: Any, folder: Path | None) -> int:
    from adaptermix.tasks.catalog import make_task

    return len(make_task(task).read(lang, split, folder))
