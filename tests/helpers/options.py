"""Every option of a command has an effect: what shows it, or why it cannot be shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer.main
from click import Command as Parsed

from adaptermix.cli.main import program

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Differs:
    """Values of an option, each of which gives a result of its own.

    Attributes:
        values: What is typed: text, a list of texts, or True and False of a switch. None leaves
            the option out. ``@NAME`` is a file or folder of the test's material.
        seen: Parts of the outcome; in each of them, no two values give the same.
        beside: Other options that are typed with all of the values, in place of the usual ones.
        again: The usual command ran in the same folder before.
        left_out: Choices that give no result of their own, with the reason.
    """

    values: tuple[Any, ...]
    seen: tuple[str, ...] = ("tensors",)
    beside: Mapping[str, Any] = field(default_factory=dict)
    again: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Elsewhere:
    """An option whose effect another test shows, because it needs what is not here."""

    test: str
    why: str


Entry = Differs | Elsewhere


@cache
def parsed(command: str) -> Parsed:
    """Return a command as the command line has it."""
    return typer.main.get_command(program()).commands[command]  # type: ignore[attr-defined]


def options_of(command: str) -> set[str]:
    """Return the names of all options of a command, those that every command has included."""
    return {param.name for param in parsed(command).params if param.param_type_name == "option"}


def command_line(command: str, options: Mapping[str, Any]) -> list[str]:
    """Return what is typed to set options; None leaves one out."""
    flags = {param.name: param for param in parsed(command).params}
    line = [command]
    for name, value in options.items():
        param = flags[name]
        if value is True:
            line.append(param.opts[0])
        elif value is False:
            line += param.secondary_opts[:1]
        elif value is not None:
            for item in value if isinstance(value, list) else [value]:
                line += [param.opts[0], str(item)]
    return line


def choices_of(annotation: Any) -> set[str]:
    """Return what an option can be set to, where these are a few words."""
    origin = get_origin(annotation)
    if origin is Literal:
        return {choice for choice in get_args(annotation) if isinstance(choice, str)}
    if origin in (Union, UnionType):
        parts = [part for part in get_args(annotation) if part is not NoneType]
        return set().union(*map(choices_of, parts))
    if origin is Annotated:
        return choices_of(get_args(annotation)[0])
    return set()


def part_of(outcome: Mapping[str, Any], name: str) -> Any:
    """Return a part of an outcome; ``report.steps`` is a part of its part ``report``."""
    found: Any = outcome
    for key in name.split("."):
        found = found[key]
    return found


def assert_all_differ(entry: Differs, outcomes: list[Mapping[str, Any]]) -> None:
    """Check that no two values have the same in any of the parts where they are to differ."""
    tried = list(zip(entry.values, outcomes, strict=True))
    for name in entry.seen:
        for (one, left), (other, right) in combinations(tried, 2):
            same = part_of(left, name) == part_of(right, name)
            assert not same, f"{one!r} and {other!r} give the same {name}"


def assert_table_is_whole(command: str, table: Mapping[str, Entry]) -> None:
    """Check that every option has an entry, and that what is shown elsewhere is named there."""
    options = options_of(command)
    assert not options - table.keys(), "options without an entry"
    assert not table.keys() - options, "entries of options that are gone"
    for name, entry in table.items():
        if isinstance(entry, Elsewhere):
            text = (TESTS / entry.test).read_text(encoding="utf-8")
            flag = f"--{name.replace('_', '-')}"
            assert entry.why
            assert flag in text or name in text, f"{entry.test} does not name {flag}"
        else:
            assert len(entry.values) > 1, name


def assert_choices_are_tried(settings: Any, table: Mapping[str, Entry]) -> None:
    """Check that an option with a few choices is tried with each of them."""
    for name, info in settings.model_fields.items():
        entry = table[name]
        if isinstance(entry, Differs):
            tried = [*entry.values, *entry.left_out]
            missing = [each for each in choices_of(info.annotation) if each not in tried]
            assert not missing, f"{name}: choices that are not tried"
