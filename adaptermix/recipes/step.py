"""A step of a recipe and its settings."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptermix.commands.command import Call, Command, Made
from adaptermix.errors import AdaptermixError, ConfigError, StoppedError
from adaptermix.files.toml import line_of
from adaptermix.recipes.resources import Resources
from adaptermix.settings.shared import Settings


@dataclass(frozen=True)
class Overrides:
    """What the command line says over the heads of all steps.

    Attributes:
        values: Settings by key, for every step that has the key; or by step and key, as
            ``test.limit``.
        limit: Examples of each language, and steps of each training, of a trial.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None


@dataclass(frozen=True)
class Step:
    """One step, ready to run.

    Attributes:
        name: Its name; of a step with seeds, the name for one of them.
        header: Its name in the file.
        command: The command it runs.
        settings: The command's settings; the output lies in the recipe's folder.
        inputs: What the command takes beside its settings, such as the adapters of a merge.
        out: Its output.
        needs: The steps whose outputs it reads.
        path: The file it is written in.
        table: What the file says of it.
        missing: The first of its files that is not there, as an error with file and line.
        resources: What it asks of a machine of a cluster.
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
    missing: AdaptermixError | None = None
    resources: Resources = Resources()

    def call(self, settings: Settings | None = None, **options: Any) -> Call:
        """Return the call of its command, which may replace what an earlier run left."""
        inputs = [Path(path) for path in self.inputs]
        return Call(settings or self.settings, inputs, force=True, **options)

    def line(self, key: str | None = None) -> int:
        """Return the line of one of its keys, or of its header."""
        return line_of(self.path, self.header, key if key in self.table else None)

    def blame(self, error: AdaptermixError) -> AdaptermixError:
        """Say where in the recipe the cause of an error stands, as far as its words tell."""
        text = f"{error.message} {error.hint or ''}"
        keys = sorted(self.table, key=lambda key: key not in ("langs", "pairs", "lang"))
        named = next((key for key in keys if f"--{key} " in f"{text} "), None)
        longest = max(keys, key=lambda key: self._named_by(key, error.message), default=None)
        if longest is not None and not self._named_by(longest, error.message):
            longest = None
        line = self.line(named or longest)
        # A recipe continues from checkpoints without an option.
        stopped = isinstance(error, StoppedError)
        hint = "to continue, run the recipe again" if stopped else error.hint
        return error.restated(f"{self.path}:{line}: [{self.name}] {error.message}", hint=hint)

    def _named_by(self, key: str, message: str) -> int:
        """Return the length of the longest text or path of a key that a message speaks of."""
        made = getattr(self.settings, key.replace("-", "_"), self.inputs)
        items = [*_listed(self.table[key]), *_listed(made)]
        words = [str(item) for item in items if isinstance(item, str | Path)]
        spoken = [w for w in words if re.search(rf"(?<![\w-]){re.escape(w)}(?!\w)", message)]
        return max(map(len, spoken), default=0)


@dataclass(frozen=True)
class Recipe:
    """The steps of a recipe in an order in which they can run, and where their outputs go."""

    path: Path
    out: Path
    steps: tuple[Step, ...]

    def named(self, name: str) -> set[str]:
        """Return the names of the steps that a name means: one step, or all seeds of one.

        Raises:
            ConfigError: There is none of that name.
        """
        found = {step.name for step in self.steps if name in (step.name, step.header)}
        if not found:
            names = [step.name for step in self.steps]
            raise ConfigError(
                f"{self.path}: no step '{name}'", hint=f"the steps are {', '.join(names)}"
            )
        return found

    def maker(self, path: Path) -> Made | None:
        """Return which step leaves something there; outputs begin with the name of their step."""
        if not path.is_relative_to(self.out):
            return None
        entry = path.relative_to(self.out).parts[:1]
        name = entry[0].partition(".")[0] if entry else ""
        for step in self.steps:
            if step.name == name:
                return Made(step.name, step.command.name, step.settings)
        return None

    def with_needs(self, name: str) -> "Recipe":
        """Return the recipe of one step, or all seeds of one, and of all that it needs."""
        wanted = self.named(name)
        for step in reversed(self.steps):
            if step.name in wanted:
                wanted.update(step.needs)
        return Recipe(self.path, self.out, tuple(s for s in self.steps if s.name in wanted))


def _listed(value: Any) -> Sequence[Any]:
    """Return the items of a list, or the one value."""
    return value if isinstance(value, list | tuple) else [value]
