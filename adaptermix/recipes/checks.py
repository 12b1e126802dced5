"""What would stop a step of a recipe, as far as it shows before the steps that it needs have run.

A command checks all this itself when it starts, but a test that cannot work should not be told of
after hours of training. What a step will leave is known by its settings, what is there by itself.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from adaptermix.adapters.systems import system_names, systems_of
from adaptermix.errors import ConfigError, require_extra
from adaptermix.merging.plan import read_weights
from adaptermix.recipes.step import Recipe, Step
from adaptermix.reports.runs import find_runs
from adaptermix.retrieval.analysis import language_pairs
from adaptermix.retrieval.task_scores import match_languages, read_scores
from adaptermix.search.run import check_search
from adaptermix.tasks.catalog import make_task


def check_ahead(step: Step, recipe: Recipe) -> None:
    """Check a step that may have to wait for others.

    Raises:
        AdaptermixError: What would stop it; it names the flag or value that is to blame.
    """
    check = _CHECKS.get(step.command)
    if check is not None:
        check(step, recipe)


def _check_merge(step: Step, recipe: Recipe) -> None:
    settings: Any = step.settings
    if settings.search is not None:
        check_search([Path(path) for path in step.inputs], settings)
    elif settings.weights_file is None or settings.weights_file.is_file():
        read_weights(len(step.inputs), settings)


def _check_evaluation(step: Step, recipe: Recipe) -> None:
    settings: Any = step.settings
    systems_of(settings)
    _ = make_task(settings.task, settings.prompt, settings.system_prompt, settings).metrics


def _check_retrieval(step: Step, recipe: Recipe) -> None:
    settings: Any = step.settings
    system_names(map(Path, settings.adapters))
    language_pairs(settings.langs, settings.pivot)
    if settings.scores is None:
        return
    maker = _maker(settings.scores, recipe)
    if maker is None:
        read_scores(settings.scores, settings.langs)
    elif maker.command != "eval":
        raise ConfigError(f"scores: @{maker.name} is no eval but a {maker.command}")
    else:
        tested: Any = maker.settings
        match_languages(tested.langs, settings.langs, f"@{maker.name}")


def _check_report(step: Step, recipe: Recipe) -> None:
    require_extra("report", "altair", "vl_convert")
    tasks: dict[str, str] = {}  # with the first run of each
    for path in map(Path, step.inputs):
        maker = _maker(path, recipe)
        task = find_runs([path]).task if maker is None else _task_of(maker, path)
        if task is not None:
            tasks.setdefault(task, str(path) if maker is None else f"@{path.name}")
    if len(tasks) > 1:
        (one, first), (other, second) = list(tasks.items())[:2]
        raise ConfigError(
            f"runs: {second} is of the task '{other}', but {first} of '{one}'",
            hint="a report is of one task: make one for each",
        )


def _task_of(maker: Step, path: Path) -> str | None:
    """Return the task of what a step will leave there; None for what has none, as an adapter."""
    settings: Any = maker.settings
    if maker.command in ("report", "score", "inspect"):
        raise ConfigError(f"runs: @{maker.name} is no run but a {maker.command}")
    is_search = path.name.endswith(".search")
    if is_search and getattr(settings, "search", None) is None:
        raise ConfigError(f"runs: @{path.name}: {maker.name} searches no weights")
    return make_task(settings.task).name if is_search or maker.command == "eval" else None


def _maker(path: Path, recipe: Recipe) -> Step | None:
    """Return the step that leaves something there; outputs begin with the name of their step."""
    if not path.is_relative_to(recipe.out):
        return None
    entry = path.relative_to(recipe.out).parts[:1]
    names = {step.name: step for step in recipe.steps}
    return names.get(entry[0].partition(".")[0]) if entry else None


_CHECKS: dict[str, Callable[[Step, Recipe], None]] = {
    "merge": _check_merge,
    "eval": _check_evaluation,
    "retrieval": _check_retrieval,
    "report": _check_report,
}
