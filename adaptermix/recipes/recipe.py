"""A recipe: named steps in a TOML file, the graph that they form, and the settings of each.

A step is a table that names a command and has the command's own settings as keys. Keys at the top
are for every step that knows them. ``@NAME`` stands for the output of another step::

    model = "meta-llama/Meta-Llama-3-8B-Instruct"

    [task]
    command = "train-task"
    langs = ["en", "de"]

    [test]
    command = "eval"
    adapters = ["@task"]
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adaptermix.commands.catalog import COMMANDS
from adaptermix.commands.command import Command
from adaptermix.errors import AdaptermixError, ArtifactError, ConfigError, DataError
from adaptermix.files.hub import HUB_NAME
from adaptermix.files.outputs import check_output, whole_output
from adaptermix.files.toml import hint_of_keys, line_of, read_toml
from adaptermix.recipes.step import Overrides, Recipe, Step
from adaptermix.settings.locations import Location, from_folder
from adaptermix.settings.shared import Settings, complaint, keys_of

# What the recipe itself decides for a step.
_MANAGED = {"out": "the output of a step has its name", "resume": "a recipe always resumes"}
_OWN_KEYS = ("base", "out")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_REFERENCE = re.compile(r"@([A-Za-z0-9][A-Za-z0-9_-]*)(.*)", re.DOTALL)
# Paths that need not exist: outputs, and a command that may be found on the PATH.
_WRITTEN = ("out", "export", "comet-python")
_TRIAL_TOKENS = 32  # longest answer of a trial


@dataclass(frozen=True)
class _Draft:
    """A step as it is written, before its settings are made; checked when it is needed."""

    name: str
    path: Path
    written: Mapping[str, Any]
    shared: Mapping[str, tuple[Path, Any]]

    @property
    def command(self) -> Command:
        return COMMANDS[self.written["command"]]

    @property
    def table(self) -> dict[str, Any]:
        return {key: value for key, value in self.written.items() if key != "command"}

    def fail(self, message: str, *keys: str, hint: str | None = None) -> ConfigError:
        line = line_of(self.path, self.name, keys[0] if keys else None)
        return ConfigError(f"{self.path}:{line}: [{self.name}] {message}", hint=hint)


def read_recipe(path: Path, out: Path | None = None, overrides: Overrides | None = None) -> Recipe:
    """Read a recipe, and check all that can be checked without running anything.

    Of the steps in the file that ``base`` names, those that the recipe's own steps need are taken.

    Args:
        path: The file.
        out: Folder of the outputs; by default what the recipe says, or ``runs/NAME`` beside it.
        overrides: Settings of the command line.

    Raises:
        ConfigError: Not a recipe: an unknown key, command or step, a wrong value, a cycle; with
            file and line. Files that are not there are told by ``Step.missing``.
    """
    overrides = overrides or Overrides()
    drafts, tops, own = _read_files(path)
    folder = out or _out_folder(path, tops)
    order = _in_order(drafts, own)
    _check_overrides(overrides, [drafts[name] for name in order])
    outs = {name: _output(folder, drafts[name]) for name in order}
    steps = tuple(_make_step(drafts[name], drafts, outs, folder, overrides) for name in order)
    return Recipe(path, folder, steps)


def write_template(path: Path, *, force: bool = False) -> None:
    """Write a recipe with comments, to be filled in.

    Raises:
        ArtifactError: The file exists and ``force`` is not set.
    """
    if path.exists() and not force:
        raise ArtifactError(f"{path} exists", hint="name another file, or pass --force")
    check_output(path, force)
    text = (files("adaptermix.recipes") / "template.toml").read_text(encoding="utf-8")
    with whole_output(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _read_files(path: Path) -> tuple[dict[str, _Draft], dict[str, tuple[Path, Any]], list[str]]:
    """Return all steps, the keys at the top with their files, and the names of the own steps."""
    contents = _with_base(path)
    tops = {key: (file, v) for file, table in contents for key, v in _top_keys(file, table).items()}
    drafts: dict[str, _Draft] = {}
    for file, table in contents:
        for name in _tables(table):
            if name in drafts:
                line, there = line_of(file, name, None), drafts[name].path
                raise ConfigError(f"{file}:{line}: {there} has a step [{name}] already")
            drafts[name] = _Draft(name, file, table[name], tops)
    own = _tables(contents[-1][1])
    if not own:
        raise ConfigError(f"{path}: no steps", hint="a step is a table: [NAME] with a command")
    return drafts, tops, own


def _with_base(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Read the file that a recipe names as its base, if it does, and the recipe."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file", hint="adaptermix recipe new writes a recipe")
    content = read_toml(path)
    if "base" not in content:
        return [(path, content)]
    line, name = line_of(path, None, "base"), content["base"]
    if not isinstance(name, str) or not (path.parent / name).is_file():
        raise ConfigError(f"{path}:{line}: base: no such file: {name}")
    base = path.parent / name
    shared = read_toml(base)
    if "base" in shared:
        line = line_of(base, None, "base")
        raise ConfigError(f"{base}:{line}: the base of a recipe has no base itself")
    return [(base, shared), (path, content)]


def _tables(content: Mapping[str, Any]) -> list[str]:
    return [name for name, value in content.items() if isinstance(value, dict)]


def _top_keys(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    known = _all_keys()
    tops = {key: value for key, value in content.items() if not isinstance(value, dict)}
    for key in tops:
        if key not in known and key not in _OWN_KEYS:
            near = get_close_matches(key, [*known, *_OWN_KEYS], 1)
            hint = "settings of the steps stand there, and a step begins with [NAME]"
            raise ConfigError(
                f"{path}:{line_of(path, None, key)}: unknown key '{key}' at the top",
                hint=f"did you mean {near[0]}?" if near else hint,
            )
    return tops


def _check_step(draft: _Draft) -> None:
    """Check the name, the command and the keys of a step."""
    if not _NAME.fullmatch(draft.name):
        raise draft.fail("is no name of a step: letters, digits, - and _")
    command = draft.written.get("command")
    if not isinstance(command, str) or command not in COMMANDS:
        hint = f"the commands are {', '.join(COMMANDS)}"
        if command is None:
            raise draft.fail("no command", hint=hint)
        raise draft.fail(f"unknown command '{command}'", "command", hint=hint)
    for key in draft.table:
        if key in _MANAGED:
            raise draft.fail(f"'{key}' is no key of a step: {_MANAGED[key]}", key)
        if key not in draft.command.step_keys():
            keys = [k for k in draft.command.step_keys() if k not in _MANAGED]
            raise draft.fail(f"unknown key '{key}'", key, hint=hint_of_keys(key, keys))


def _all_keys() -> set[str]:
    """Return the settings that a step of any command may have."""
    commands = COMMANDS.values()
    return {key for command in commands for key in keys_of(command.settings)} - _MANAGED.keys()


def _out_folder(path: Path, tops: Mapping[str, tuple[Path, Any]]) -> Path:
    if "out" not in tops:
        return path.parent / "runs" / path.stem
    file, value = tops["out"]
    if not isinstance(value, str):
        raise ConfigError(f"{file}:{line_of(file, None, 'out')}: out: a folder, not {value!r}")
    return file.parent / value


def _check_overrides(overrides: Overrides, drafts: Sequence[_Draft]) -> None:
    """Refuse keys that no command has; one that no step of this recipe has changes nothing."""
    known = _all_keys()
    for draft in drafts:
        known |= {
            f"{draft.name}.{key}" for key in {*keys_of(draft.command.settings)} - _MANAGED.keys()
        }
    for key in overrides.values:
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else "write KEY=VALUE or STEP.KEY=VALUE"
            raise ConfigError(f"--set {key}: no step has this key", hint=hint)


def _references(value: Any) -> Iterator[re.Match[str]]:
    """Yield the references in a value or in the list that it is."""
    for item in value if isinstance(value, list) else [value]:
        found = _REFERENCE.fullmatch(item) if isinstance(item, str) else None
        if found:
            yield found


def _needs(draft: _Draft) -> dict[str, str]:
    """Return the steps a draft refers to, with the keys that do so."""
    return {found[1]: key for key, value in _stated(draft).items() for found in _references(value)}


def _stated(draft: _Draft) -> dict[str, Any]:
    """Return what the files say of a step, keys at the top included; paths as they are written."""
    known = keys_of(draft.command.settings)
    shared = {key: value for key, (_, value) in draft.shared.items() if key in known}
    return {k: v for k, v in shared.items() if k not in _OWN_KEYS} | dict(draft.table)


def _in_order(drafts: Mapping[str, _Draft], wanted: Sequence[str]) -> list[str]:
    """Return the wanted steps and all they need, each after its needs, else as in the file."""
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in order:
            return
        _check_step(drafts[name])
        for need, key in _needs(drafts[name]).items():
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


def _output(folder: Path, draft: _Draft) -> Path:
    suffix = "" if "into" in draft.table else draft.command.suffix
    return folder / (draft.name + suffix)


def _make_step(
    draft: _Draft,
    drafts: Mapping[str, _Draft],
    outs: Mapping[str, Path],
    folder: Path,
    overrides: Overrides,
) -> Step:
    command = draft.command
    keys: dict[str, Any] = {}
    missing: list[AdaptermixError] = []
    overridden = _overridden(draft, overrides)
    for key, value in _stated(draft).items():
        origin = draft.path if key in draft.table else draft.shared[key][0]
        _check_referred(draft, drafts, key, value)
        location = command.location(key)
        read = _resolved(value, location, origin.parent, outs, folder)
        if key not in overridden:
            missing += _missing(draft, origin, key, value, read)
        keys[key] = read
    inputs = _inputs(draft, keys)
    keys |= overridden
    if overrides.limit is not None:
        keys = _trial(command.settings, keys, overrides.limit) | overridden
    if "out" in keys_of(command.settings):
        keys["out"] = outs[draft.name]
    kind = command.settings.for_keys(keys)
    unused = {*keys_of(command.settings)} - {*keys_of(kind)}
    for key in unused & draft.table.keys():
        raise draft.fail(f"{key}: has no effect without 'search'", key)
    try:
        settings = kind.model_validate({k: v for k, v in keys.items() if k not in unused})
    except ValidationError as error:
        raise _invalid(error, draft, overrides) from error
    return Step(
        name=draft.name,
        command=command,
        settings=settings,
        inputs=tuple(map(str, inputs)),
        out=outs[draft.name],
        needs=tuple(_needs(draft)),
        path=draft.path,
        table=draft.table,
        missing=next(iter(missing), None),
    )


def _inputs(draft: _Draft, keys: dict[str, Any]) -> list[Any]:
    """Take the items of the command's argument out of the keys."""
    if draft.command.argument is None:
        return []
    name = draft.command.argument.name
    inputs = keys.pop(name, [])
    is_list = isinstance(inputs, list) and all(isinstance(item, str | Path) for item in inputs)
    if not inputs or not is_list:
        hint = f'such as {name} = ["@NAME", "PATH"]'
        raise draft.fail(f"{name}: a list of steps and paths is wanted", hint=hint)
    return list(inputs)


def _resolved(
    value: Any, location: Location | None, parent: Path, outs: Mapping[str, Path], folder: Path
) -> Any:
    """Turn references into paths of outputs, and paths in a file into paths from here."""
    if isinstance(value, list):
        return [_resolved(item, location, parent, outs, folder) for item in value]
    found = next(_references(value), None)
    if found:
        return str(folder / f"{found[1]}{found[2]}" if found[2] else outs[found[1]])
    if location in ("paths", "adapters") and isinstance(value, str):
        return from_folder(parent, location, [value])[0]
    return from_folder(parent, location, value)


def _check_referred(draft: _Draft, drafts: Mapping[str, _Draft], key: str, value: Any) -> None:
    """Refuse a test where an adapter is wanted, and a file in an output that is one itself."""
    location = draft.command.location(key)
    for found in _references(value):
        other = drafts[found[1]]
        if found[2].startswith("/") and _output(Path(), other).suffix:
            raise draft.fail(f"{key}: the output of {found[1]} is a file, and holds no others", key)
        if location == "model" and _output(Path(), other).suffix:
            hint = "a merge with 'into' makes one"
            raise draft.fail(f"{key}: @{found[1]} is no model", key, hint=hint)
        if location == "adapters" and not found[2] and other.command.output != "adapter":
            raise draft.fail(f"{key}: @{found[1]} is no adapter but an {other.command.name}", key)


def _missing(
    draft: _Draft, origin: Path, key: str, value: Any, read: Any
) -> Iterator[AdaptermixError]:
    """Yield an error for each path that leads nowhere; outputs of steps come later."""
    if key in _WRITTEN:
        return
    location = draft.command.location(key)
    written = value if isinstance(value, list) else [value]
    for item, path in zip(written, read if isinstance(read, list) else [read], strict=True):
        if (
            isinstance(item, str)
            and not _REFERENCE.fullmatch(item)
            and _leads_nowhere(location, path)
        ):
            line = line_of(origin, draft.name if key in draft.table else None, key)
            kind = ArtifactError if location in ("adapters", "model") else DataError
            yield kind(f"{origin}:{line}: {key}: no such file or folder: {path}")


def _leads_nowhere(location: Location | None, path: Any) -> bool:
    if location in ("adapters", "model"):
        return not Path(path).exists() and not HUB_NAME.fullmatch(str(path))
    is_path = location in ("path", "paths") or str(path).endswith(".toml")
    return is_path and not Path(path).exists()


def _overridden(draft: _Draft, overrides: Overrides) -> dict[str, Any]:
    """Return the overrides that concern a step; a model that another step makes stays."""
    own = f"{draft.name}."
    named = {k.removeprefix(own): v for k, v in overrides.values.items() if k.startswith(own)}
    keys = {
        k: v for k, v in overrides.values.items() if k in keys_of(draft.command.settings)
    } | named
    if any(_references(_stated(draft).get("model"))):
        keys.pop("model", None)
    if "into" in draft.table and "model" in overrides.values:
        keys["into"] = overrides.values["model"]
    return keys


def _trial(kind: type[Settings], keys: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """Make a trial of a step: small slices of data, few steps, short answers."""
    most = {
        "limit": limit,
        "dev-limit": limit,
        "max-steps": limit,
        "learn-steps": limit,
        "max-new-tokens": _TRIAL_TOKENS,
    }
    known = {name.replace("_", "-"): field.default for name, field in kind.model_fields.items()}
    stated = known | dict(keys)
    smaller = {key: _least(stated[key], value) for key, value in most.items() if key in known}
    if "contrastive-batch" in known:
        batch = _least(stated["batch-size"])
        sizes = range(1, _least(stated["contrastive-batch"], limit) + 1)
        size = max(size for size in sizes if batch % size == 0)
        smaller |= {"contrastive-batch": size, "batch-size": min(batch, 4 * size)}
    return dict(keys) | smaller


def _least(stated: Any, *others: int) -> int:
    """Return the least of numbers; what is stated may be text from the command line, or nothing."""
    number = int(stated) if re.fullmatch(r"\d+", str(stated)) else None
    return min(value for value in (number, *others, 2**31) if value is not None)


def _invalid(error: ValidationError, draft: _Draft, overrides: Overrides) -> ConfigError:
    """Turn pydantic's first complaint into one line that names file and line, or the flag."""
    first = error.errors()[0]
    if not first["loc"]:
        return draft.fail(complaint(first))
    key = str(first["loc"][0])
    is_overridden = bool({key, f"{draft.name}.{key}"} & overrides.values.keys())
    is_written = key in draft.table and len(first["loc"]) == 1 and not is_overridden
    given = draft.table[key] if is_written else first["input"]  # as written, not as it was read
    message = f"{key}: {complaint(first)}, not {given!r}"
    if is_overridden:
        return ConfigError(f"--set {message}")
    if key in draft.table or key not in draft.shared:
        return draft.fail(message, *([key] if key in draft.table else []))
    file = draft.shared[key][0]
    return ConfigError(f"{file}:{line_of(file, None, key)}: {message}")
