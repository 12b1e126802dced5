"""Progress bars, and lines in their place where there is no terminal."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from adaptermix.cli.console import say, show, talk
from adaptermix.processes import is_main_process
from adaptermix.progress import OnProgress, Progress
from adaptermix.tables import noted

if TYPE_CHECKING:
    from adaptermix.recipes.step import Step

_SECONDS_A_LINE = 60


class _Lines(Bars):
    """Progress for a log file: a line a minute in place of a bar."""

    def __init__(self) -> None:
        super().__init__(disable=True)
        self._said = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Take note of progress, and say it if the last time was a minute ago."""
        super().update(task_id, **changes)
        if time.monotonic() - self._said >= _SECONDS_A_LINE:
            self._said = time.monotonic()
            task = next(task for task in self.tasks if task.id == task_id)
            total = "" if task.total is None else f"/{task.total:.0f}"
            say(f"{task.description}  {task.completed:.0f}{total}")


@contextmanager
def _bar(quiet: bool) -> Iterator[Bars]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    is_silent = quiet or not is_main_process()
    if talk.is_terminal or is_silent:
        bar = Bars(*columns, console=talk, disable=is_silent, transient=True)
    else:
        bar = _Lines()
    with bar:
        yield bar


@contextmanager
def progress_bar(quiet: bool, name: str = "") -> Iterator[OnProgress]:
    """Show how far a command is, and the time left.

    Args:
        quiet: Show nothing.
        name: Stands in place of the stage's name, where the command has a single stage.
    """
    with _bar(quiet) as bar:
        task = bar.add_task(name or "reading", total=None)
        last = Progress("", 0, None)

        def update(progress: Progress) -> None:
            nonlocal task, last
            if progress.note:
                if is_main_process():
                    say(*noted([progress.note]))
                return
            is_other_work = progress.total != last.total or progress.done < last.done
            if is_other_work:  # with a speed of its own
                bar.remove_task(task)
                task = bar.add_task("", total=progress.total)
            last = progress
            shown = "  ".join(filter(None, (name or progress.stage, progress.detail)))
            bar.update(task, description=shown, completed=progress.done)

        yield update


class RecipeWatcher:
    """Shows the steps of a recipe while they run: which of how many, its bar, its result."""

    def __init__(self, *, quiet: bool, json: bool) -> None:
        """Leave out the bars where ``quiet``, and the results of single steps where ``json``."""
        self.quiet = quiet
        self.json = json

    def begin(self, number: int, total: int, step: "Step", *, is_finished: bool) -> None:
        """Say which step it is."""
        if not self.quiet:
            done = ": done before" if is_finished else f": {step.command.name}"
            say(f"{number}/{total}  {step.name}{done}")
        if not is_finished and (remark := step.command.remark(step.settings)):
            say(remark)

    def progress(self, step: "Step") -> AbstractContextManager[OnProgress]:
        """Show the bar of the step's command."""
        has_stages = not step.command.name.startswith("train-")
        return progress_bar(self.quiet, "" if has_stages else step.name)

    @contextmanager
    def together(self) -> Iterator["_StepBars"]:
        """Show a bar for each of several steps."""
        with _bar(self.quiet) as bar:
            yield _StepBars(bar)

    def end(self, step: "Step", report: Any) -> None:
        """Print what the step's command reports."""
        if not (self.quiet or self.json):
            show(report)


class _StepBars:
    """Bars of steps that run at the same time."""

    def __init__(self, bar: Bars) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def show(self, step: "Step", progress: Progress) -> None:
        """Show how far a step is, or what there is to know about it."""
        if progress.note:
            say(*noted([f"{step.name}: {progress.note}"]))
            return
        if step.name not in self._tasks:
            self._tasks[step.name] = self._bar.add_task("", total=None)
        shown = "  ".join(filter(None, (step.name, progress.stage, progress.detail)))
        self._bar.update(
            self._tasks[step.name],
            description=shown,
            completed=progress.done,
            total=progress.total,
        )

    def remove(self, step: "Step") -> None:
        """Take the bar of a step away."""
        if (task := self._tasks.pop(step.name, None)) is not None:
            self._bar.remove_task(task)
