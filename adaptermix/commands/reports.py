"""``report``."""

from pathlib import Path

from adaptermix.commands.command import Argument, Call, Command, Made, Maker
from adaptermix.errors import ConfigError
from adaptermix.files.outputs import Report
from adaptermix.settings.reports import ReportSettings
from adaptermix.settings.shared import HARNESS, harness_tasks


def report(call: Call) -> Report:
    """Write one HTML page about runs: what was merged, the scores, and every answer.

    The page shows scores with intervals, languages before and after, retrieval by layer, the
    weights that were tried, norms and interference of the adapters, and all answers. It loads
    nothing from the network.

    Examples:
        adaptermix report eval-massive merged.search task.safetensors

        adaptermix report runs/demo -o demo.html --export figures
    """
    from adaptermix.reports.page import report as run

    return run(call.inputs, call.settings, force=call.force, dry_run=call.dry_run)


def _check(call: Call, maker: Maker) -> None:
    """Check that all runs are of one task; for steps that have not run, their settings tell it."""
    from adaptermix.reports.published import read_published
    from adaptermix.reports.runs import find_runs

    if call.settings.published is not None:
        read_published(call.settings.published)
    tasks: dict[str, str] = {}  # the first run of each task
    for path in call.inputs:
        made = maker(path)
        task = find_runs([path]).task if made is None else _task_of(made, path)
        if task is not None:
            tasks.setdefault(task, str(path) if made is None else f"@{path.name}")
    if len(tasks) > 1:
        (one, first), (other, second) = list(tasks.items())[:2]
        raise ConfigError(
            f"runs: {second} has the task '{other}', but {first} has '{one}'",
            hint="a report covers one task; make one report per task",
        )


def _task_of(made: Made, path: Path) -> str | None:
    """Return the task of a step's output, or None if it has none, like an adapter."""
    from adaptermix.tasks.catalog import make_task

    if made.command in ("report", "score", "inspect"):
        raise ConfigError(f"runs: @{made.step} runs {made.command}, which has no scores to report")
    is_search = path.name.endswith(".search")
    if is_search and getattr(made.settings, "search", None) is None:
        raise ConfigError(f"runs: @{path.name}: the step {made.step} does not search weights")
    if is_search and made.settings.per_language:
        raise ConfigError(
            f"runs: @{path.name}: a search per language writes no such folder",
            hint=f"use @{made.step}, which contains its record",
        )
    if not is_search and made.command != "eval":
        return None
    return HARNESS if harness_tasks(made.settings.task) else make_task(made.settings.task).name


REPORT = Command(
    ReportSettings,
    report,
    Argument(
        "runs",
        "Output folders of eval, merge --search and retrieval, adapters, or a folder "
        "that contains them.",
        "paths",
    ),
    output=".html",
    shows_progress=False,
    check=_check,
)
