"""Run a recipe: every step once, in order, and again only what has changed.

What is kept of the steps lies in ``steps.json`` in the output folder. A step is finished when its
key and the content of its output are those that stand there. The key is a hash of all that the
output depends on: the command and its settings, the contents of the files and outputs that it
reads, and the version of this package. A step whose inputs come out the same is not run again.

A run that was killed is started again with the same line. Its finished steps stay, a training goes
on from its checkpoint, and an evaluation or search finds its answers in the cache.
"""

import gc
import shutil
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from adaptermix.errors import ArtifactError
from adaptermix.files.outputs import whole_output, write_json
from adaptermix.progress import OnProgress, ignore
from adaptermix.recipes.keys import VOLATILE, step_key
from adaptermix.recipes.plan import blaming, check_steps, chosen_steps, forced_steps, statuses_of
from adaptermix.recipes.report import RecipeReport
from adaptermix.recipes.state import State, alone_in
from adaptermix.recipes.step import Recipe, Step


class Watcher(Protocol):
    """Is told how far a run is."""

    def begin(self, number: int, total: int, step: Step, *, is_finished: bool) -> None:
        """A step begins, or is passed over."""

    def progress(self, step: Step) -> AbstractContextManager[OnProgress]:
        """Return what is told how far the step is."""

    def end(self, step: Step, report: Any) -> None:
        """A step is done; ``report`` is its command's own."""


class Unwatched:
    """A watcher that keeps quiet."""

    def begin(self, number: int, total: int, step: Step, *, is_finished: bool) -> None:
        """Say nothing."""

    def progress(self, step: Step) -> AbstractContextManager[OnProgress]:
        """Show nothing."""
        return nullcontext(ignore)

    def end(self, step: Step, report: Any) -> None:
        """Say nothing."""


def run(
    recipe: Recipe,
    *,
    only: str | None = None,
    force: bool = False,
    watcher: Watcher | None = None,
) -> RecipeReport:
    """Run the steps of a recipe that are not finished.

    Args:
        recipe: The recipe.
        only: Run this step alone, and what it needs that is not finished.
        force: Run finished steps again (with ``only``, that step), and replace what is there.
        watcher: Is told how far the run is.

    Raises:
        AdaptermixError: Whatever stops a step, with the line of the recipe that it comes from.
        ArtifactError: An output that another program made.
        ResourceError: Another run works in the same folder.
    """
    watcher = watcher or Unwatched()
    chosen = chosen_steps(recipe, only)
    forced = forced_steps(chosen, only, force)
    with alone_in(recipe.out):
        state = State(recipe.out)
        check_steps(chosen, statuses_of(chosen, state, forced))
        reports = []
        for number, step in enumerate(chosen.steps, start=1):
            key = step_key(step, recipe.out)
            is_finished = step.name not in forced and state.is_finished(step, key)
            watcher.begin(number, len(chosen.steps), step, is_finished=is_finished)
            if not is_finished:
                _run_step(step, key, state, watcher, force=force)
            reports.append(state.report(step, "done before" if is_finished else "done"))
    return RecipeReport(str(recipe.path), str(recipe.out), reports)


def _run_step(step: Step, key: str, state: "State", watcher: Watcher, *, force: bool) -> None:
    if step.out.exists() and not state.made(step) and not force:
        where = f"{step.path}:{step.line()}: [{step.name}]"
        raise ArtifactError(
            f"{where} {step.out} exists, and was not made by a recipe",
            hint="choose another --out, or pass --force",
        )
    is_resumed = state.was_begun(step, key)
    _sweep(step, is_resumed)
    settings = step.settings
    if is_resumed and "resume" in type(settings).model_fields:
        settings = settings.model_copy(update={"resume": True})
    state.begin(step, key)
    started = time.monotonic()
    with watcher.progress(step) as on_progress, blaming(step):
        report = step.command.perform(step.call(settings, on_progress=on_progress))
    record = {k: v for k, v in report.as_record().items() if k not in VOLATILE}
    if "out" not in type(settings).model_fields:
        with whole_output(step.out) as partial:
            write_json(partial, record)
    state.finish(step, key, record, round(time.monotonic() - started, 1))
    watcher.end(step, report)
    del report
    _free_memory()


def _free_memory() -> None:
    """Let go of the models and engines of a step before the next one loads its own."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _sweep(step: Step, is_resumed: bool) -> None:
    """Remove what a killed run left beside the output, but for checkpoints to go on from."""
    for left in step.out.parent.glob(f".{step.out.name}.*"):
        if left.is_dir() and not (is_resumed and left.name.endswith(".training")):
            shutil.rmtree(left)
