"""The steps as written in a recipe's files, and the graph that they form."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin

from adaptermix.commands.catalog import COMMANDS
from adaptermix.commands.command import MANAGED, Command
from adaptermix.errors import ConfigError
from adaptermix.files.text import why_no_file
from adaptermix.files.toml import hint_of_keys, line_of, read_toml
from adaptermix.recipes.resources import KEYS as RESOURCES
from adaptermix.recipes.resources import Resources, read_resources
from adaptermix.settings.locations import at_home, split_adapters
from adaptermix.settings.shared import keys_of, meant_for

SEEDS = "seeds"
_OWN_KEYS = ("base", "out", SEEDS, *RESOURCES)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
REFERENCE = re.compile(r"@([A-Za-z0-9][A-Za-z0-9_-]*)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Draft:
    """A step as written, before its settings are created; checked only if it is needed.

    Attributes:
        name: Name of the step; for a step with seeds, the name for one seed.
        header: Its name in the file.
        path: The file.
        written: Its table in the file.
        shared: The top-level keys, with their files.
    """

    name: str
    header: str
    path: Path
    written: Mapping[str, Any]
    shared: Mapping[str, tuple[Path, Any]]

    @property
    def command(self) -> Command:
        """The command that the step runs."""
        return COMMANDS[self.written["command"]]

    @property
    def table(self) -> dict[str, Any]:
        """The step's keys except for its command and its resources."""
        others = ("command", *RESOURCES)
        return {key: value for key, value in self.written.items() if key not in others}

    @property
    def resources(self) -> Resources:
        """The resources that the step requests on a cluster: its own keys, or the top-level ones.

        Raises:
            ConfigError: A value is invalid; with file and line.
        """
        top = {key: self.shared[key][1] for key in RESOURCES if key in self.shared}
        own = {key: self.written[key] for key in RESOURCES if key in self.written}
        try:
            return read_resources(top | own)
        except ValueError as error:
            key, why = error.args
        if key in own:
            raise self.fail(f"{key}: {why}", key)
        file = self.shared[key][0]
        raise ConfigError(f"{file}:{line_of(file, None, key)}: {key}: {why}")

    def fail(self, message: str, *keys: str, hint: str | None = None) -> ConfigError:
        """Return an error at the line of a key, or of the step's header."""
        line = line_of(self.path, self.header, keys[0] if keys else None)
        return ConfigError(f"{self.path}:{line}: [{self.name}] {message}", hint=hint)


def read_files(path: Path) -> tuple[dict[str, Draft], dict[str, tuple[Path, Any]], list[str]]:
    """Return all steps, the top-level keys with their files, and the recipe's own steps' names."""
    contents = _with_base(path)
    tops = {
        key: (file, value)
        for file, table in contents
        for key, value in _with_lists(file, _top_keys(file, table)).items()
    }
    drafts: dict[str, Draft] = {}
    for file, table in contents:
        for name in _tables(table):
            if name in drafts:
                line, there = line_of(file, name, None), drafts[name].path
                raise ConfigError(f"{file}:{line}: the step [{name}] is already defined in {there}")
            drafts[name] = Draft(name, name, file, _with_lists(file, table[name]), tops)
    own = _tables(contents[-1][1])
    if not own:
        raise ConfigError(f"{path}: no steps", hint="add a step: a table [NAME] with a command")
    return drafts, tops, own


def _with_lists(path: Path, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys with a list of adapters where the file has text: ``@task,@merged``."""
    listed = {
        key
        for command in COMMANDS.values()
        for key in command.step_keys()
        if command.location(key) in ("adapters", "weighted-adapters")
    }
    return {
        key: split_adapters(value, path.parent)
        if key in listed and isinstance(value, str)
        else value
        for key, value in keys.items()
    }


def _with_base(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Read a recipe, and before it its base file if it names one."""
    if not path.is_file():
        raise ConfigError(
            f"{path}: {why_no_file(path)}", hint="adaptermix recipe new writes a recipe"
        )
    content = read_toml(path)
    if "base" not in content:
        return [(path, content)]
    line, name = line_of(path, None, "base"), content["base"]
    base = path.parent / at_home(str(name))
    if not isinstance(name, str) or not base.is_file():
        raise ConfigError(f"{path}:{line}: base: {why_no_file(base)}: {name}")
    shared = read_toml(base)
    if "base" in shared:
        line = line_of(base, None, "base")
        raise ConfigError(f"{base}:{line}: the base of a recipe cannot have a base of its own")
    return [(base, shared), (path, content)]


def _tables(content: Mapping[str, Any]) -> list[str]:
    """Return the names of the steps; a table without a command may also be a setting's value."""
    settings = _table_keys()
    return [
        name
        for name, value in content.items()
        if isinstance(value, dict) and ("command" in value or name not in settings)
    ]


def _table_keys() -> set[str]:
    """Return the keys of all commands whose value may be a table, such as ``groups``."""
    return {
        name.replace("_", "-")
        for command in COMMANDS.values()
        for name, field in command.settings.model_fields.items()
        if _is_table(field.annotation)
    }


def _is_table(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(map(_is_table, get_args(annotation)))


def _top_keys(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    known = all_keys()
    steps = _tables(content)
    tops = {key: value for key, value in content.items() if key not in steps}
    for key in tops:
        if key not in known and key not in _OWN_KEYS:
            near = get_close_matches(key, [*known, *_OWN_KEYS], 1)
            hint = "put settings into a step, which begins with [NAME]"
            raise ConfigError(
                f"{path}:{line_of(path, None, key)}: unknown top-level key '{key}'",
                hint=f"did you mean {near[0]}?" if near else hint,
            )
    return tops


def _check_step(draft: Draft) -> None:
    """Check the name, the command and the keys of a step."""
    if not _NAME.fullmatch(draft.name):
        raise draft.fail("is not a valid step name; use letters, digits, - and _")
    command = draft.written.get("command")
    if not isinstance(command, str) or command not in COMMANDS:
        hint = f"the commands are {', '.join(COMMANDS)}"
        if command is None:
            raise draft.fail("no command", hint=hint)
        raise draft.fail(f"unknown command '{command}'", "command", hint=hint)
    for key in draft.table:
        if key in MANAGED:
            raise draft.fail(f"'{key}' is not an option of a step: {MANAGED[key]}", key)
        if key not in (known := draft_keys(draft.command)):
            keys = [k for k in known if k not in MANAGED]
            raise draft.fail(f"unknown key '{key}'", key, hint=hint_of_keys(key, keys))


def draft_keys(command: Command) -> list[str]:
    """Return the keys that a step may have in a file; ``seeds`` is allowed beside ``seed``."""
    own = command.step_keys()
    return [*own, SEEDS] if "seed" in own else own


def all_keys() -> set[str]:
    """Return the keys of all commands that a step may set."""
    commands = COMMANDS.values()
    return {key for command in commands for key in keys_of(command.settings)} - MANAGED.keys()


def references(command: Command, key: str, value: Any) -> Iterator[re.Match[str]]:
    """Yield the references in a key's value, or in its items if it is a list.

    Only keys that name files, models or adapters have references; elsewhere, an ``@`` is text.
    """
    items = value if isinstance(value, list) else [value]
    for item in items if command.location(key) is not None else ():
        found = REFERENCE.fullmatch(item) if isinstance(item, str) else None
        if found:
            yield found


def needs(draft: Draft) -> dict[str, str]:
    """Return the steps that a draft refers to, with the key of each reference."""
    return {
        found[1]: key
        for key, value in stated(draft).items()
        for found in references(draft.command, key, value)
    }


def stated(draft: Draft, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a step's keys including the top-level ones; paths are still as written.

    Args:
        draft: The step.
        overrides: Keys that are set instead, which decide what has an effect; not returned.
    """
    known = {*keys_of(draft.command.settings)} - {*draft.command.settings.own}
    shared = {key: value for key, (_, value) in draft.shared.items() if key in known}
    shared = meant_for((shared | draft.table).get("task"), shared)
    keys = {**shared, **draft.table, **(overrides or {})}
    left_out = {*_OWN_KEYS, *draft.command.settings.without_effect(keys)}
    return {k: v for k, v in shared.items() if k not in left_out} | dict(draft.table)


def in_order(drafts: Mapping[str, Draft], wanted: Sequence[str]) -> list[str]:
    """Return the wanted steps and their needs in topological order, otherwise in file order."""
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in order:
            return
        _check_step(drafts[name])
        for need, key in needs(drafts[name]).items():
            if need not in drafts:
                near = get_close_matches(need, drafts, 1)
                hint = f"did you mean @{near[0]}?" if near else f"the steps are {', '.join(drafts)}"
                raise drafts[name].fail(f"{key}: no step '{need}'", key, hint=hint)
            if need in (*above, name):
                chain = (*above, name)[(*above, name).index(need) :]
                ring = " -> ".join((*chain, need))
                raise drafts[name].fail(f"{key}: the steps form a cycle: {ring}", key)
            visit(need, (*above, name))
        order.append(name)

    for name in wanted:
        visit(name, ())
    return order
