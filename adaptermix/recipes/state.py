"""The state of a recipe's outputs on disk."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from adaptermix.errors import ArtifactError, ConfigError, ResourceError
from adaptermix.files.outputs import real_path, whole_output, write_json
from adaptermix.recipes.keys import content_hash
from adaptermix.recipes.report import StepReport
from adaptermix.recipes.step import Step
from adaptermix.version import __version__

STATE = "steps.json"


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
        """Whether the step has finished with the same key and its output is unchanged."""
        entry = self.steps.get(step.name, {})
        is_same = entry.get("status") == "finished" and entry.get("key") == key
        return is_same and entry.get("content") == content_hash(step.out)

    def was_begun(self, step: Step, key: str) -> bool:
        """Whether a run with the same key began the step and did not finish it."""
        entry = self.steps.get(step.name, {})
        return entry.get("status") == "begun" and entry.get("key") == key

    def begin(self, step: Step, key: str) -> None:
        """Record that the step has begun."""
        self._put(step, {"status": "begun", "key": key})

    def finish(self, step: Step, key: str, record: dict[str, Any], seconds: float) -> None:
        """Record that the step has finished."""
        entry = {"status": "finished", "key": key, "content": content_hash(step.out)}
        self._put(step, entry | {"out": step.out.name, "seconds": seconds, "record": record})

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
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise ResourceError(
            f"{out}: another run is using this folder",
            hint="wait until it finishes, or choose another --out",
        ) from error
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written to: {error.strerror}") from error
    with lock:
        yield
