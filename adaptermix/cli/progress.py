"""Progress bars, and lines instead of them if there is no terminal."""

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
    """Progress for a log file: one line per minute instead of a bar."""

    def __init__(self) -> None:
        super().__init__(disable=True)
        self._said = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Update the progress, and print it if the last line is a minute old."""
        super().update(task_id, **changes)
        if time.monotonic() - self._said >= _SECONDS_A_LINE:
            self._said = time.monotonic()
            task = next(task for task in self.tasks if task.id == task_id)
            done = f"  {task.completed:.0f}" if task.completed or task.total is not None else ""
            total = "" if task.total is None else f"/{task.total:.0f}"
            say(f"{task.description}{done}{total}")


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
    """Show a command's progress and the remaining time.

    Args:
        quiet: Show nothing.
        name: Shown instead of the stage's name, for commands with a single stage.
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
            if is_other_work:  # its speed is measured separately
                bar.remove_task(task)
                task = bar.add_task("", total=progress.total)
            last = progress
            shown = "  ".join(filter(None, (name or progress.stage, progress.detail)))
            bar.update(task, description=shown, completed=progress.done)

        yield update


class RecipeWatcher:
    """Shows a recipe's running steps: their number, progress bar and result."""

    def __init__(self, *, quiet: bool, json: bool) -> None:
        """Create it; ``quiet`` hides progress and results, ``json`` only steps' results."""
        self.quiet = quiet
        self.json = json

    def begin(self, number: int, total: int, step: "Step", *, is_finished: bool) -> None:
        """Print the number and name of the step."""
        if not self.quiet:
            done = ": done before" if is_finished else f": {step.command.name}"
            say(f"{number}/{total}  {step.name}{done}")
        if not is_finished and (remark := step.command.remark(step.settings)):
            say(remark)

    def progress(self, step: "Step") -> AbstractContextManager[OnProgress]:
        """Show the progress bar of the step's command."""
        has_stages = not step.command.name.startswith("train-")
        return progress_bar(self.quiet, "" if has_stages else step.name)

    @contextmanager
    def together(self) -> Iterator["_StepBars"]:
        """Show one progress bar per running step."""
        with _bar(self.quiet) as bar:
            yield _StepBars(bar)

    def end(self, step: "Step", report: Any) -> None:
        """Print the report of the step's command."""
        if not (self.quiet or self.json):
            show(report)


class _StepBars:
    """Progress bars of steps that run in parallel."""

    def __init__(self, bar: Bars) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def show(self, step: "Step", progress: Progress) -> None:
        """Show the progress of a step, or print its note."""
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
        """Remove the progress bar of a step."""
        if (task := self._tasks.pop(step.name, None)) is not None:
            self._bar.remove_task(task)
