"""Run a recipe: every step once, in order, and again only if something changed.

The state of the steps is stored in ``steps.json`` in the output folder. A step is finished if its
key and the hash of its output match the stored ones. The key is a hash of everything that the
output depends on: the command and its settings, the contents of the files and outputs that it
reads, and the version of this package. A step whose inputs are unchanged is not run again.

To resume a killed run, run the same command again. Finished steps are kept, training resumes from
its checkpoint, and an evaluation or search finds its answers in the cache.
"""

import gc
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TextIO

from adaptermix.errors import AdaptermixError, ResourceError
from adaptermix.files.outputs import whole_output, write_json
from adaptermix.progress import OnProgress, Progress, ignore
from adaptermix.recipes.cluster import (
    ATTEMPTS,
    Board,
    Cluster,
    Done,
    Perform,
    address_of,
    connected,
)
from adaptermix.recipes.keys import VOLATILE, step_key
from adaptermix.recipes.plan import blaming, check_steps, chosen_steps, forced_steps, statuses_of
from adaptermix.recipes.report import RecipeReport
from adaptermix.recipes.state import State, alone_in
from adaptermix.recipes.step import Recipe, Step
from adaptermix.settings.shared import Settings


class Watcher(Protocol):
    """Callbacks for the progress of a run; by default, nothing is shown."""

    def begin(self, number: int, total: int, step: Step, *, is_finished: bool) -> None:
        """Called when a step begins or is skipped."""
        return None

    def progress(self, step: Step) -> AbstractContextManager[OnProgress]:
        """Return a context whose value is the progress callback of the step."""
        return nullcontext(ignore)

    def together(self) -> AbstractContextManager[Board]:
        """Return a context whose value shows the progress of several steps."""
        return nullcontext(Unseen())

    def end(self, step: Step, report: Any) -> None:
        """Called when a step is done, with its command's report."""
        return None


class Unwatched(Watcher):
    """A watcher that shows nothing."""


class Unseen(Board):
    """A board that shows nothing."""


def run(
    recipe: Recipe,
    *,
    only: str | None = None,
    force: bool = False,
    watcher: Watcher | None = None,
    on: str | None = None,
) -> RecipeReport:
    """Run the unfinished steps of a recipe.

    Args:
        recipe: The recipe.
        only: Run only this step and its unfinished needs.
        force: Run finished steps again (with ``only``, that step), and replace existing outputs.
        watcher: Gets the progress of the run.
        on: ``ray`` or ``ray://ADDRESS``: run steps on a cluster, independent ones in parallel.

    Raises:
        AdaptermixError: A step fails; the message has the line in the recipe.
        ArtifactError: An existing output or exported folder was not made by a recipe.
        ResourceError: Another run uses the same folder, or the cluster does not exist.
    """
    address = None if on is None else address_of(on)
    chosen = chosen_steps(recipe, only)
    forced = forced_steps(chosen, only, force)
    with alone_in(recipe.out):
        state = State(recipe.out)
        statuses = statuses_of(chosen, state, forced)
        work = _Run(chosen, state, watcher or Unwatched(), forced, force)
        with redirect_stdout(sys.stderr):  # output of libraries is not a result
            check_steps(chosen, statuses, None if force else state)
            if on is None:
                work.in_turn()
            else:
                work.at_once(address, [s for s in chosen.steps if statuses[s.name] == "to do"])
        reports = [
            state.report(step, "done before" if step.name in work.skipped else "done")
            for step in chosen.steps
        ]
    return RecipeReport(str(recipe.path), str(recipe.out), reports)


@dataclass
class _Run:
    """One run of a recipe.

    Attributes:
        recipe: The recipe with the steps to run.
        state: The stored state of their outputs.
        watcher: Gets the progress.
        forced: Names of the steps that run even if they have finished.
        force: Replace outputs that no recipe made.
        done: Names of the finished steps.
        skipped: Names of the steps that had finished before this run.
        keys: Keys of the steps that have begun.
        stdout: Stream for results.
    """

    recipe: Recipe
    state: State
    watcher: Watcher
    forced: set[str]
    force: bool
    done: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    keys: dict[str, str] = field(default_factory=dict)
    stdout: TextIO = field(default_factory=lambda: sys.stdout)

    def in_turn(self) -> None:
        """Run the steps one after the other, in this process."""
        for step in self.recipe.steps:
            settings = self._begin(step)
            if settings is None:
                continue
            with self.watcher.progress(step) as on_progress, blaming(step):
                done = self._performer(step)(step, settings, on_progress)
            self._finish(step, done)
            del done
            _free_memory()

    def at_once(self, address: str | None, certain: Sequence[Step]) -> None:
        """Run the steps on a cluster, each as soon as its needs are done.

        After an error, no further step starts, and the running ones are allowed to finish.

        Args:
            address: Address of the cluster; None for the one of the environment or a new one.
            certain: The steps that are known to run.
        """
        waiting = list(self.recipe.steps)
        failed: AdaptermixError | None = None
        with connected(address) as cluster, self.watcher.together() as board:
            for step in certain:
                cluster.check(step)
            while (waiting and not failed) or cluster.is_busy:
                try:
                    waiting = [] if failed else self._submit_ready(waiting, cluster, board)
                except AdaptermixError as error:
                    failed = error
                for step, outcome in cluster.wait(board):
                    if isinstance(outcome, Done):
                        self._finish(step, outcome)
                    elif outcome is None and cluster.attempts[step.name] < ATTEMPTS:
                        board.show(step, Progress("", 0, None, note=_LOST))
                        cluster.submit(step, self._start(step), self._performer(step))
                    else:
                        failed = failed or step.blame(outcome or _lost())
        if failed:
            raise failed

    def _submit_ready(self, waiting: Sequence[Step], cluster: Cluster, board: Board) -> list[Step]:
        """Submit the steps whose needs are done, and return the others."""
        left = []
        for step in waiting:  # in topological order, so a skipped step allows later ones at once
            if not self.done.issuperset(step.needs):
                left.append(step)
            elif (settings := self._begin(step)) is not None:
                if note := cluster.check(step):
                    board.show(step, Progress("", 0, None, note=note))
                cluster.submit(step, settings, self._performer(step))
        return left

    def _begin(self, step: Step) -> Settings | None:
        """Return the settings to run a step with; None if it has finished."""
        with blaming(step):
            key = self.keys[step.name] = step_key(step, self.recipe.out)
        is_finished = step.name not in self.forced and self.state.is_finished(step, key)
        number = 1 + self.recipe.steps.index(step)
        self.watcher.begin(number, len(self.recipe.steps), step, is_finished=is_finished)
        if is_finished:
            self.skipped.add(step.name)
            self.done.add(step.name)
            return None
        if not self.force:
            self.state.check_replaced(step)
        return self._start(step, anew=step.name in self.forced)

    def _start(self, step: Step, *, anew: bool = False) -> Settings:
        """Remove leftovers and return the step's settings, which resume it if it was begun."""
        key = self.keys[step.name]
        is_resumed = self.state.was_begun(step, key) and not anew
        _sweep(step, is_resumed)
        self.state.begin(step, key, is_resumed=is_resumed)
        if is_resumed and step.can_resume:
            return step.settings.model_copy(update={"resume": True})
        return step.settings

    def _performer(self, step: Step) -> Perform:
        """Return what runs a step; a training that was killed after it wrote its adapter keeps it.

        An older output of the step, perhaps from other data, is replaced.
        """
        return partial(perform, force=not self.state.is_written(step))

    def _finish(self, step: Step, done: Done) -> None:
        self.state.finish(step, self.keys[step.name], done.record, done.seconds)
        self.done.add(step.name)
        with redirect_stdout(self.stdout):
            self.watcher.end(step, done.report)


def perform(step: Step, settings: Settings, on_progress: OnProgress, *, force: bool = True) -> Done:
    """Run the command of a step, in this process or in a worker."""
    started = time.monotonic()
    report = step.command.perform(step.call(settings, force=force, on_progress=on_progress))
    record = {k: v for k, v in report.as_record().items() if k not in VOLATILE}
    if "out" not in type(settings).model_fields:
        with whole_output(step.out) as unfinished:
            write_json(unfinished, record)
    return Done(record, report, round(time.monotonic() - started, 1))


_RESUMABLE = (".training", ".candidates")  # checkpoints, and adapters of several temperatures
_LOST = "its worker was lost; the step runs again from its last checkpoint"


def _lost() -> ResourceError:
    return ResourceError(
        f"its worker was lost {ATTEMPTS} times, possibly because it ran out of memory",
        hint='set its memory in the recipe, for example memory = "24GB"',
    )


def _free_memory() -> None:
    """Free the models and engines of a step before the next one loads its own."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _sweep(step: Step, is_resumed: bool) -> None:
    """Remove what a killed run left beside the output, except for what it resumes from."""
    for left in step.out.parent.glob(f".{step.out.name}.*"):
        if left.is_dir() and not (is_resumed and left.name.endswith(_RESUMABLE)):
            shutil.rmtree(left)
