"""A command as one value: its settings, what it runs, and what is known before it runs.

The command line, recipes with their dry run, the schemas for editors and the options reference
read these values and hold no list of commands of their own.
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
from adaptermix.settings.shared import Settings, keys_of

# What the recipe itself decides for a step.
MANAGED = {"out": "the output of a step has its name", "resume": "a recipe always resumes"}


@dataclass(frozen=True)
class Argument:
    """What a command takes beside its options.

    Attributes:
        name: Its name, and its key in a recipe.
        help: What it is.
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
        dry_run: Check everything, write nothing.
        on_progress: Called while the command works.
    """

    settings: Any
    inputs: Sequence[Path] = ()
    force: bool = False
    dry_run: bool = False
    on_progress: OnProgress = ignore


@dataclass(frozen=True)
class Made:
    """What an earlier step of a recipe will have made: its name, command and settings."""

    step: str
    command: str
    settings: Any


Maker = Callable[[Path], Made | None]


def _no_examples(settings: Any) -> dict[str, int]:
    return {}


def _no_check(call: Call, maker: Maker) -> None:
    """Check nothing."""


def _no_size(call: Call, examples: Mapping[str, int]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        settings: Its settings; the name of their section is the command's.
        run: Does the work. Its docstring is the help text.
        argument: What it takes beside its options.
        output: What it writes at ``out``; a command without that setting returns a report only.
        can_dry_run: Whether ``run`` heeds ``Call.dry_run``.
        shows_progress: Whether ``run`` calls ``Call.on_progress``.
        extra: The extra of the package that it needs.
        remark: What to say before it runs, if anything.
        examples: Counts the examples of each language that it reads, before any are held out.
        size: What else is known of the work: planned steps, candidates, and ``systems``, the
            number of systems that answer every example.
        check: Raises what would stop it, as far as that shows before its inputs exist.
    """

    settings: type[Settings]
    run: Callable[[Call], Report]
    argument: Argument | None = None
    output: Literal["adapter", "folder", ".html", ".json"] = "adapter"
    can_dry_run: bool = True
    shows_progress: bool = True
    extra: str | None = None
    remark: Callable[[Any], str | None] = lambda settings: None
    examples: Callable[[Any], dict[str, int]] = _no_examples
    size: Callable[[Call, Mapping[str, int]], dict[str, Any]] = _no_size
    check: Callable[[Call, Maker], None] = _no_check

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
        """How the name of its output ends in the folder of a recipe."""
        return {"adapter": ".safetensors", "folder": ""}.get(self.output, self.output)

    def perform(self, call: Call) -> Report:
        """Run the command.

        Raises:
            AdaptermixError: Whatever stops it; ResourceError if its extra is not installed.
        """
        self.require(call.settings)
        return self.run(call)

    def require(self, settings: Settings) -> None:
        """Check that what the command needs with these settings is installed.

        Raises:
            ResourceError: It is not.
        """
        if self.extra is not None:
            require_extra("server" if getattr(settings, "server", ()) else self.extra)

    def is_installed(self, settings: Settings) -> bool:
        """Whether what the command needs with these settings is installed."""
        try:
            self.require(settings)
        except ResourceError:
            return False
        return True

    def step_keys(self) -> list[str]:
        """Return the keys that a step of a recipe may have."""
        return [*([self.argument.name] if self.argument else []), *keys_of(self.settings)]

    def location(self, key: str) -> Location | None:
        """Return what a key's value names, if it names a file, a model or an adapter."""
        if self.argument is not None and key == self.argument.name:
            return self.argument.location
        return self.settings.location(key)
