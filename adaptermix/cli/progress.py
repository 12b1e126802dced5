"""Progress bars, and lines in their place where there is no terminal."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from adaptermix.cli.console import say, talk
from adaptermix.cli.shown import show
from adaptermix.processes import is_main_process

if TYPE_CHECKING:
    from adaptermix.commands.command import OnProgress as OnStepProgress
    from adaptermix.generation.decoder import DecodeProgress, OnProgress
    from adaptermix.recipes.step import Step
    from adaptermix.retrieval.representations import OnProgress as OnStage
    from adaptermix.training.report import OnProgress as OnTrainProgress
    from adaptermix.training.report import Progress as TrainProgress

_SECONDS_A_LINE = 60


class _Lines(Progress):
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
def _bar(quiet: bool) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    is_silent = quiet or not is_main_process()
    if talk.is_terminal or is_silent:
        bar = Progress(*columns, console=talk, disable=is_silent, transient=True)
    else:
        bar = _Lines()
    with bar:
        yield bar


@contextmanager
def training_progress(name: str, quiet: bool) -> "Iterator[OnTrainProgress]":
    """Show training steps and the loss while they run."""
    with _bar(quiet) as bar:
        task = bar.add_task(name, total=None)

        def update(progress: "TrainProgress") -> None:
            loss = "" if progress.loss is None else f"  loss {progress.loss:.3f}"
            bar.update(task, completed=progress.step, total=progress.total, description=name + loss)

        yield update


@contextmanager
def evaluation_progress(quiet: bool) -> "Iterator[OnProgress]":
    """Show how many answers are decoded, how fast, and the time left."""
    with _bar(quiet) as bar:
        task = bar.add_task("reading", total=None)

        def update(progress: "DecodeProgress") -> None:
            speed = progress.tokens_per_second
            bar.update(
                task,
                description=progress.stage + (f"  {speed:,.0f} tokens/s" if speed else ""),
                completed=progress.done,
                total=progress.total or None,
            )

        yield update


def command_progress(
    command: str, name: str, quiet: bool
) -> "AbstractContextManager[OnStepProgress]":
    """Show the progress of a command, under a name where it has no stages."""
    if command.startswith("train-"):
        return training_progress(name, quiet)
    if command == "retrieval":
        return stage_progress(quiet)
    return evaluation_progress(quiet)


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

    def progress(self, step: "Step") -> "AbstractContextManager[OnStepProgress]":
        """Show the bar of the step's command."""
        return command_progress(step.command.name, step.name, self.quiet)

    def end(self, step: "Step", report: Any) -> None:
        """Print what the step's command reports."""
        if not (self.quiet or self.json):
            show(report, as_json=False)


@contextmanager
def stage_progress(quiet: bool) -> "Iterator[OnStage]":
    """Show the stage a long job is at, how far, and the time left."""
    with _bar(quiet) as bar:
        task = bar.add_task("reading", total=None)
        seen: list[int] = []

        def update(stage: str, done: int, total: int) -> None:
            if seen != [total]:  # other work, with a speed of its own
                seen[:] = [total]
                bar.reset(task, total=total)
            bar.update(task, description=stage, completed=done)

        yield update
