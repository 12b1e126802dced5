"""The state of a recipe's outputs on disk."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from adaptermix.errors import ArtifactError, ConfigError, ResourceError
from adaptermix.files.outputs import real_path, whole_output, write_json
from adaptermix.recipes.keys import STATE, content_hash
from adaptermix.recipes.report import StepReport
from adaptermix.recipes.step import Step
from adaptermix.version import __version__

# Errors of file systems without locks, such as NFS mounted with "nolock".
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)


class State:
    """The stored state of the steps in an output folder; every change is an atomic write."""

    def __init__(self, out: Path) -> None:
        self.path = out / STATE
        self.steps: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            try:
                steps = json.loads(self.path.read_text(encoding="utf-8"))["steps"]
                self.steps = {name: dict(entry) for name, entry in steps.items()}
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise ArtifactError(
                    f"{self.path}: not the record of a recipe's steps",
                    hint="delete it; all steps will run again",
                ) from error

    def made(self, step: Step) -> bool:
        """Whether a run has ever begun the step."""
        return step.name in self.steps

    def is_finished(self, step: Step, key: str) -> bool:
        """Whether the step has finished with the same key and its output is unchanged.

        An exported folder must be there, but users may add to it.
        """
        entry = self.steps.get(step.name, {})
        is_same = entry.get("status") == "finished" and entry.get("key") == key
        if step.export is not None:
            is_there = entry.get("export") == self._place(step.export) and step.export.is_dir()
            is_same = is_same and is_there
        return is_same and entry.get("content") == content_hash(step.out)

    def check_replaced(self, step: Step) -> None:
        """Check that a step replaces only what a recipe made.

        Raises:
            ArtifactError: Its output exists and no recipe made it, or so does its exported folder,
                or that folder has changed since.
        """
        where = f"{step.path}:{step.line()}: [{step.name}]"
        if step.out.exists() and not self.made(step):
            raise ArtifactError(
                f"{where} {step.out} exists, and was not made by a recipe",
                hint="choose another --out, or pass --force",
            )
        if step.export is None or not (step.export.exists() or step.export.is_symlink()):
            return
        entry = self.steps.get(step.name, {})
        is_made = entry.get("export") == self._place(step.export)
        is_changed = entry.get("exported", "") not in ("", content_hash(step.export))
        if not is_made or is_changed:
            why = "has changed since this step wrote it" if is_made else "was not made by this step"
            raise ArtifactError(
                f"{step.path}:{step.line('export')}: [{step.name}] export: {step.export} exists, "
                f"and {why}",
                hint=f"choose another folder, or replace it with --only {step.header} --force",
            )

    def _place(self, path: Path) -> str:
        """Return a path relative to the outputs, so that both may move together."""
        return os.path.relpath(real_path(path), real_path(self.path.parent))

    def was_begun(self, step: Step, key: str) -> bool:
        """Whether a run with the same key began the step and did not finish it."""
        entry = self.steps.get(step.name, {})
        return entry.get("status") == "begun" and entry.get("key") == key

    def is_written(self, step: Step) -> bool:
        """Whether a training wrote its adapter, and was killed before ``finish``."""
        entry = self.steps.get(step.name, {})
        if not step.can_resume or entry.get("status") != "begun" or "before" not in entry:
            return False
        return content_hash(step.out) not in (entry["before"], "nothing")

    def begin(self, step: Step, key: str, *, is_resumed: bool = False) -> None:
        """Record that the step has begun, and for a training what its output was before."""
        entry = {"status": "begun", "key": key} | self._exported(step)
        if is_resumed:
            entry = self.steps[step.name] | entry
        elif step.can_resume:
            entry["before"] = content_hash(step.out)
        self._put(step, entry)

    def finish(self, step: Step, key: str, record: dict[str, Any], seconds: float) -> None:
        """Record that the step has finished."""
        entry: dict[str, Any] = {"status": "finished", "key": key}
        entry |= {"content": content_hash(step.out), "out": step.out.name}
        entry |= {"seconds": seconds, "record": record}
        exported = self._exported(step)
        if step.export is not None:
            exported["exported"] = content_hash(step.export)
        self._put(step, entry | exported)

    def _exported(self, step: Step) -> dict[str, Any]:
        return {} if step.export is None else {"export": self._place(step.export)}

    def report(self, step: Step, status: Literal["done", "done before"]) -> StepReport:
        """Return the report of a finished step from its record."""
        entry = self.steps[step.name]
        return StepReport(
            step.name, step.command.name, status, entry["seconds"], str(step.out), entry["record"]
        )

    def _put(self, step: Step, entry: dict[str, Any]) -> None:
        self.steps[step.name] = {"command": step.command.name} | entry
        with whole_output(self.path) as partial:
            write_json(partial, {"adaptermix": __version__, "steps": self.steps})


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Lock the folder against other runs; the lock is released however the process ends."""
    if real_path(out).exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: not a folder")
    lock: AbstractContextManager[object] = nullcontext()
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise ResourceError(
            f"{out}: another run is using this folder",
            hint="wait until it finishes, or choose another --out",
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise ResourceError(f"{out}: cannot be written to: {error.strerror}") from error
    with lock:
        yield
