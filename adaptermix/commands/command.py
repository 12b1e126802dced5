"""A command as one object: its settings, its function, and what is known before it runs.

The command line, recipes and their dry run, the editor schemas and the options reference are all
generated from these objects and keep no command lists of their own.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adaptermix.errors import ResourceError, require_extra
from adaptermix.files.outputs import Report
from adaptermix.progress import OnProgress, ignore
from adaptermix.settings.locations import Location
from adaptermix.settings.shared import HARNESS, Settings, harness_tasks, keys_of

# Keys that the recipe sets for a step itself.
MANAGED = {
    "out": "the output of a step is named after the step",
    "resume": "a recipe always resumes",
}


@dataclass(frozen=True)
class Argument:
    """The positional argument of a command.

    Attributes:
        name: Its name, and its key in a recipe.
        help: Its help text.
        location: Whether its items are adapters or other paths.
    """

    name: str
    help: str
    location: Location


@dataclass(frozen=True)
class Call:
    """One call of a command.

    Attributes:
        settings: The settings.
        inputs: The items of its argument.
        force: Replace an existing output.
        dry_run: Check everything, and write nothing.
        on_progress: Called with the progress of the command.
    """

    settings: Any
    inputs: Sequence[Path] = ()
    force: bool = False
    dry_run: bool = False
    on_progress: OnProgress = ignore


@dataclass(frozen=True)
class Made:
    """The earlier step of a recipe that makes a path: its name, command and settings."""

    step: str
    command: str
    settings: Any


Maker = Callable[[Path], Made | None]


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        settings: Its settings class; the name of the section is the command's name.
        run: Runs the command. Its docstring is the help text.
        argument: Its positional argument, if any.
        output: What it writes to ``out``; a command without that setting only returns a report.
        can_dry_run: Whether ``run`` respects ``Call.dry_run``.
        shows_progress: Whether ``run`` calls ``Call.on_progress``.
        extra: The optional extra of the package that it needs.
        remark: Returns a note to show before it runs, or None.
        examples: Counts the examples it reads per language, before any are held out.
        size: Returns the size of the work: planned steps, candidates, and ``systems``, the
            number of systems that answer every example.
        check: Raises errors that would stop it, as far as they show before its inputs exist.
    """

    settings: type[Settings]
    run: Callable[[Call], Report]
    argument: Argument | None = None
    output: Literal["adapter", "folder", ".html", ".json"] = "adapter"
    can_dry_run: bool = True
    shows_progress: bool = True
    extra: str | None = None
    remark: Callable[[Any], str | None] = lambda settings: None
    examples: Callable[[Any], dict[str, int]] = lambda settings: {}
    size: Callable[[Call, Mapping[str, int]], dict[str, Any]] = lambda call, examples: {}
    check: Callable[[Call, Maker], None] = lambda call, maker: None

    @property
    def name(self) -> str:
        """Its name on the command line, in files and in recipes."""
        return self.settings.section

    @property
    def help(self) -> str:
        """Its help text, with examples."""
        return inspect.getdoc(self.run) or ""

    @property
    def suffix(self) -> str:
        """The suffix of its output's name in a recipe's folder."""
        return {"adapter": ".safetensors", "folder": ""}.get(self.output, self.output)

    def perform(self, call: Call) -> Report:
        """Run the command.

        Raises:
            AdaptermixError: The command fails; ResourceError if its extra is not installed.
        """
        self.require(call.settings)
        return self.run(call)

    def require(self, settings: Settings) -> None:
        """Check that the packages the command needs with these settings are installed.

        Raises:
            ResourceError: A package is not installed.
        """
        if self.extra is not None:
            is_harness = bool(harness_tasks(getattr(settings, "task", None)))
            extra = HARNESS if is_harness else self.extra
            require_extra("server" if getattr(settings, "server", ()) else extra)

    def is_installed(self, settings: Settings) -> bool:
        """Whether the packages the command needs with these settings are installed."""
        try:
            self.require(settings)
        except ResourceError:
            return False
        return True

    def step_keys(self) -> list[str]:
        """Return the keys that a step of a recipe may have."""
        return [*([self.argument.name] if self.argument else []), *keys_of(self.settings)]

    def location(self, key: str) -> Location | None:
        """Return the kind of location that a key's value names; None if it names none."""
        if self.argument is not None and key == self.argument.name:
            return self.argument.location
        return self.settings.location(key)
