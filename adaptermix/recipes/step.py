"""A step of a recipe and its settings."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptermix.commands.command import Call, Command, Made
from adaptermix.commands.settings_file import is_about_missing
from adaptermix.errors import AdaptermixError, ConfigError, StoppedError
from adaptermix.files.toml import line_of
from adaptermix.recipes.resources import Resources
from adaptermix.settings.shared import Settings


@dataclass(frozen=True)
class Overrides:
    """Settings from the command line that override those of the steps.

    Attributes:
        values: Settings by key, for every step that has the key; or by step and key, such as
            ``test.limit``.
        limit: Limit of a trial: examples per language, and steps per training.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None


@dataclass(frozen=True)
class Step:
    """One step, ready to run.

    Attributes:
        name: Name of the step; for a step with seeds, the name for one seed.
        header: Its name in the file.
        command: The command it runs.
        settings: The command's settings; the output is in the recipe's folder.
        inputs: The command's argument, such as the adapters of a merge.
        out: Path of its output.
        needs: Names of the steps whose outputs it reads.
        path: The file that defines it.
        table: Its keys in the file.
        places: File, line and key of each path and model that the file names.
        missing: The error for the first missing file, with file and line; None if none is missing.
        resources: The resources it requests on a cluster.
    """

    name: str
    header: str
    command: Command
    settings: Settings
    inputs: tuple[str, ...]
    out: Path
    needs: tuple[str, ...]
    path: Path
    table: Mapping[str, Any]
    places: Mapping[str, str] = field(default_factory=dict)
    missing: AdaptermixError | None = None
    resources: Resources = Resources()

    @property
    def can_resume(self) -> bool:
        """Whether its command continues what a killed run has begun: a training."""
        return "resume" in type(self.settings).model_fields

    @property
    def export(self) -> Path | None:
        """The folder beside its output that it writes as well, such as a report's figures."""
        return getattr(self.settings, "export", None)

    def call(self, settings: Settings | None = None, *, force: bool = True, **options: Any) -> Call:
        """Return the call of its command, which may replace the output of an earlier run."""
        inputs = [Path(path) for path in self.inputs]
        return Call(settings or self.settings, inputs, force=force, **options)

    def line(self, key: str | None = None) -> int:
        """Return the line of one of its keys, or of its header."""
        return line_of(self.path, self.header, key if key in self.table else None)

    def blame(self, error: AdaptermixError) -> AdaptermixError:
        """Add the place in the recipe to an error, as far as its message reveals it."""
        for name, place in self.places.items():
            if is_about_missing(error, name):  # as in a run of the command by itself
                return error.restated(f"{place}: {error.message}", hint=error.hint)
        text = f"{error.message} {error.hint or ''}"
        keys = sorted(self.table, key=lambda key: key not in ("langs", "pairs", "lang"))
        named = next((key for key in keys if f"--{key} " in f"{text} "), None)
        longest = max(keys, key=lambda key: self._named_by(key, error.message), default=None)
        if longest is not None and not self._named_by(longest, error.message):
            longest = None
        line = self.line(named or longest)
        # A recipe resumes from checkpoints without an option.
        stopped = isinstance(error, StoppedError)
        hint = "to continue, run the recipe again" if stopped else error.hint
        hint = hint and hint.replace(" instead of --resume", "")
        return error.restated(f"{self.path}:{line}: [{self.name}] {error.message}", hint=hint)

    def _named_by(self, key: str, message: str) -> int:
        """Return the length of the longest value of a key that a message mentions."""
        made = getattr(self.settings, key.replace("-", "_"), self.inputs)
        items = [*_listed(self.table[key]), *_listed(made)]
        words = [str(item) for item in items if isinstance(item, str | Path)]
        spoken = [w for w in words if re.search(rf"(?<![\w-]){re.escape(w)}(?!\w)", message)]
        return max(map(len, spoken), default=0)


@dataclass(frozen=True)
class Recipe:
    """The steps of a recipe in topological order, and the folder of their outputs."""

    path: Path
    out: Path
    steps: tuple[Step, ...]

    def named(self, name: str) -> set[str]:
        """Return the names of the steps that a name stands for: one step, or all seeds of one.

        Raises:
            ConfigError: There is no step of that name.
        """
        found = {step.name for step in self.steps if name in (step.name, step.header)}
        if not found:
            names = [step.name for step in self.steps]
            raise ConfigError(
                f"{self.path}: no step '{name}'", hint=f"the steps are {', '.join(names)}"
            )
        return found

    def maker(self, path: Path) -> Made | None:
        """Return the step that writes a path; outputs begin with the name of their step."""
        if not path.is_relative_to(self.out):
            return None
        entry = path.relative_to(self.out).parts[:1]
        name = entry[0].partition(".")[0] if entry else ""
        for step in self.steps:
            if step.name == name:
                return Made(step.name, step.command.name, step.settings)
        return None

    def with_needs(self, name: str) -> "Recipe":
        """Return the recipe with only one step, or all its seeds, and everything that it needs."""
        wanted = self.named(name)
        for step in reversed(self.steps):
            if step.name in wanted:
                wanted.update(step.needs)
        return Recipe(self.path, self.out, tuple(s for s in self.steps if s.name in wanted))


def _listed(value: Any) -> Sequence[Any]:
    """Return the items of a list, or the value as its only item."""
    return value if isinstance(value, list | tuple) else [value]
