"""A recipe: named steps in a TOML file, the graph that they form, and the settings of each.

A step is a table with a command and the command's settings as keys. Top-level keys apply to every
step that has them. ``@NAME`` stands for the output of another step::

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
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adaptermix.commands.command import MANAGED
from adaptermix.errors import AdaptermixError, ArtifactError, ConfigError, DataError
from adaptermix.files.hub import HUB_NAME, hub_place
from adaptermix.files.outputs import check_output, whole_output
from adaptermix.files.toml import line_of
from adaptermix.recipes.draft import (
    REFERENCE,
    SEEDS,
    Draft,
    all_keys,
    draft_keys,
    in_order,
    needs,
    read_files,
    references,
    stated,
)
from adaptermix.recipes.exports import check_exports
from adaptermix.recipes.seeds import expand
from adaptermix.recipes.step import Overrides, Recipe, Step
from adaptermix.settings.locations import (
    Location,
    at_home,
    from_folder,
    is_local_data,
    paths_of,
    without_weight,
)
from adaptermix.settings.shared import (
    Settings,
    complaint,
    keys_of,
    meant_for,
    not_replaced,
    with_value,
)

_OUTPUTS = ("out", "export")
# What steps write beside their outputs, by the end of the name.
_BESIDE = (".search", ".log.jsonl", ".README.md", ".tensorboard")
_TRIAL_TOKENS = 32  # maximum length of an answer in a trial


def read_recipe(path: Path, out: Path | None = None, overrides: Overrides | None = None) -> Recipe:
    """Read a recipe, and check everything that can be checked without running it.

    From the file that ``base`` names, only the steps that the recipe's own steps need are used.

    Args:
        path: The file.
        out: Folder of the outputs; by default the recipe's ``out``, or ``runs/NAME`` beside it.
        overrides: Settings from the command line.

    Raises:
        ConfigError: The file is not a recipe: an unknown key, command or step, an invalid value,
            or a cycle; with file and line. ``Step.missing`` reports missing files.
    """
    overrides = overrides or Overrides()
    drafts, tops, own = read_files(path)
    folder = out or _out_folder(path, tops)
    drafts, own = expand(drafts, own, overrides.values)
    order = in_order(drafts, own)
    _check_overrides(overrides, [drafts[name] for name in order])
    outs = {name: _output(folder, drafts[name]) for name in order}
    steps = tuple(_make_step(drafts[name], drafts, outs, folder, overrides, path) for name in order)
    recipe = Recipe(path, folder, steps)
    check_exports(recipe)
    return recipe


def write_template(path: Path, *, force: bool = False) -> None:
    """Write a commented recipe to fill in.

    Raises:
        ArtifactError: The file exists and ``force`` is not set.
    """
    if path.exists() and not force:
        raise ArtifactError(f"{path} exists", hint="name another file, or pass --force")
    check_output(path, force)
    text = (files("adaptermix.recipes") / "template.toml").read_text(encoding="utf-8")
    with whole_output(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _out_folder(path: Path, tops: Mapping[str, tuple[Path, Any]]) -> Path:
    if "out" not in tops:
        return path.parent / "runs" / path.stem
    file, value = tops["out"]
    if not isinstance(value, str):
        raise ConfigError(
            f"{file}:{line_of(file, None, 'out')}: out: expected the name of a "
            f"folder, not {value!r}"
        )
    return file.parent / at_home(value)


def _check_overrides(overrides: Overrides, drafts: Sequence[Draft]) -> None:
    """Refuse keys that no command has; a key that no step of this recipe has is ignored."""
    known = all_keys() | {SEEDS}
    for draft in drafts:
        keys = {*draft_keys(draft.command)} & {SEEDS, *keys_of(draft.command.settings)}
        known |= {f"{name}.{key}" for name in _names(draft) for key in keys - MANAGED.keys()}
    for key in overrides.values:
        if key.rpartition(".")[2] == "per-language":
            raise ConfigError(
                f"--set {key}: set this key in the recipe; it makes the output a folder"
            )
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else "write KEY=VALUE or STEP.KEY=VALUE"
            raise ConfigError(f"--set {key}: no step has this key", hint=hint)
        takers = [draft for draft in drafts if key in keys_of(draft.command.settings)]
        if takers and all(key in draft.command.settings.own for draft in takers):
            raise ConfigError(
                f"--set {key}: a {takers[0].command.name} does not take this key from all steps",
                hint=f"write {takers[0].header}.{key}=VALUE",
            )


def _names(draft: Draft) -> tuple[str, ...]:
    """Return the step names that may precede the key of an override."""
    return tuple(dict.fromkeys((draft.header, draft.name)))


def _output(folder: Path, draft: Draft) -> Path:
    is_folder = "into" in stated(draft) or _is_family(draft)
    return folder / (draft.name + ("" if is_folder else draft.command.suffix))


def _is_family(draft: Draft) -> bool:
    return stated(draft).get("per-language") is True


def _make_step(
    draft: Draft,
    drafts: Mapping[str, Draft],
    outs: Mapping[str, Path],
    folder: Path,
    overrides: Overrides,
    recipe: Path,
) -> Step:
    command = draft.command
    keys: dict[str, Any] = {}
    places: dict[str, str] = {}
    missing: list[AdaptermixError] = []
    overridden = _overridden(draft, overrides)
    for key, value in not_replaced(stated(draft, overridden), overridden).items():
        origin = draft.path if key in draft.table else draft.shared[key][0]
        _check_referred(draft, drafts, key, value)
        location = command.location(key)
        read = _resolved(value, location, origin.parent, outs, folder)
        if key not in overridden:
            places |= _places(draft, origin, key, value, read)
            missing += _missing(draft, origin, key, value, read, recipe)
        keys[key] = read
    inputs = _inputs(draft, keys)
    keys |= overridden
    if overrides.limit is not None:
        keys = _trial(command.settings, keys, overrides.limit, overridden)
    if "out" in keys_of(command.settings):
        keys["out"] = outs[draft.name]
    is_search_replaced = "search" in stated(draft) and "search" not in keys
    for key in command.settings.unused(keys):
        if key in draft.table and not is_search_replaced:
            raise draft.fail(f"{key} has no effect without 'search'", key)
        if key in _named_overrides(draft, overrides):
            raise ConfigError(f"--set {draft.name}.{key} has no effect without 'search'")
    try:
        settings = command.settings.from_keys(keys)
    except ValidationError as error:
        raise _invalid(error, draft, overrides) from error
    return Step(
        name=draft.name,
        header=draft.header,
        command=command,
        settings=settings,
        inputs=tuple(map(str, inputs)),
        out=outs[draft.name],
        needs=tuple(needs(draft)),
        path=draft.path,
        table=draft.table,
        places=places,
        missing=next(iter(missing), None),
        resources=draft.resources,
    )


def _inputs(draft: Draft, keys: dict[str, Any]) -> list[Any]:
    """Remove the command's argument from the keys and return its items."""
    if draft.command.argument is None:
        return []
    name = draft.command.argument.name
    inputs = keys.pop(name, [])
    is_list = isinstance(inputs, list) and all(isinstance(item, str | Path) for item in inputs)
    if not inputs or not is_list:
        hint = f'for example {name} = ["@NAME", "PATH"]'
        raise draft.fail(f"{name}: expected a list of steps and paths", hint=hint)
    return list(inputs)


def _resolved(
    value: Any, location: Location | None, parent: Path, outs: Mapping[str, Path], folder: Path
) -> Any:
    """Replace references by output paths, and make paths in the file relative to this folder."""
    if isinstance(value, list):
        return [_resolved(item, location, parent, outs, folder) for item in value]
    if location == "weighted-adapters" and isinstance(value, str):
        name, weight = without_weight(value, parent)
        return f"{_resolved(name, 'adapters', parent, outs, folder)}{weight}"
    found = REFERENCE.fullmatch(value) if location is not None and isinstance(value, str) else None
    if found:
        return str(folder / f"{found[1]}{found[2]}" if found[2] else outs[found[1]])
    if location in ("paths", "adapters") and isinstance(value, str):  # an item of a list
        return from_folder(parent, location, [value])[0]
    return from_folder(parent, location, value)


def _check_referred(draft: Draft, drafts: Mapping[str, Draft], key: str, value: Any) -> None:
    """Refuse references to the wrong kind of output, or to a file inside a single-file output."""
    location = draft.command.location(key)
    if location == "weighted-adapters":
        location = "adapters"
        listed = value if isinstance(value, list) else [value]
        value = [without_weight(item)[0] if isinstance(item, str) else item for item in listed]
    for found in references(draft.command, key, value):
        other = drafts[found[1]]
        suffix = _output(Path(), other).suffix
        if found[2].startswith("/") and suffix:
            raise draft.fail(f"{key}: the output of {found[1]} is a file, not a folder", key)
        step, end = found[1], found[2]
        if end.partition("/")[0] not in ("", suffix, *_BESIDE):
            raise draft.fail(
                f"{key}: the step {step} does not write {step}{end}",
                key,
                hint=f"@{step} is its output",
            )
        if location == "model" and (_output(Path(), other).suffix or _is_family(other)):
            hint = "use a merge step with 'into', which writes a model"
            raise draft.fail(f"{key}: @{found[1]} is not a model", key, hint=hint)
        if location == "adapters" and not found[2] and other.command.output != "adapter":
            raise draft.fail(
                f"{key}: @{found[1]} is an output of {other.command.name}, not an adapter", key
            )
        if location == "adapters" and not found[2] and _is_family(other):
            _check_takes_family(draft, found[1], key)


def _check_takes_family(draft: Draft, name: str, key: str) -> None:
    if draft.command.name not in ("eval", "inspect"):
        hint = (
            f"use one of its adapters, @{name}/NAME; only eval, inspect and report accept a family"
        )
        raise draft.fail(f"{key}: @{name} is a family of adapters", key, hint=hint)


def _places(draft: Draft, origin: Path, key: str, value: Any, read: Any) -> dict[str, str]:
    """Return the paths and models that a key reads, with file, line and key; no references."""
    if draft.command.location(key) is None or key in _OUTPUTS:
        return {}
    line = line_of(origin, draft.header if key in draft.table else None, key)
    pairs = zip(value, read, strict=True) if isinstance(value, list) else [(value, read)]
    return {
        str(name): f"{origin}:{line}: {key}"
        for item, name in pairs
        if not any(references(draft.command, key, item))
    }


def _missing(
    draft: Draft, origin: Path, key: str, value: Any, read: Any, recipe: Path
) -> Iterator[AdaptermixError]:
    """Yield an error for each path that does not exist; references are skipped."""
    if key in _OUTPUTS:
        return
    location = draft.command.location(key)
    written = value if isinstance(value, list) else [value]
    for item, path in zip(written, read if isinstance(read, list) else [read], strict=True):
        if (
            isinstance(item, str)
            and not REFERENCE.fullmatch(item)
            and _leads_nowhere(location, path)
        ):
            line = line_of(origin, draft.header if key in draft.table else None, key)
            is_artifact = location in ("adapters", "weighted-adapters", "model")
            kind = ArtifactError if is_artifact else DataError
            hint = None
            if key in ("data-dir", "pairs-dir"):
                hint = f"adaptermix data check {recipe} prints the commands that download the data"
            if location == "model" and "/" not in item:
                hint = f"for a model on the Hub, name its owner, too: OWNER/{item}"
            yield kind(f"{origin}:{line}: {key}: no such file or folder: {path}", hint=hint)


def _leads_nowhere(location: Location | None, path: Any) -> bool:
    if location == "weighted-adapters":
        return _leads_nowhere("adapters", without_weight(str(path))[0])
    if location == "adapters":
        return not Path(path).exists() and hub_place(str(path)) is None
    if location == "model":
        return not Path(path).exists() and not HUB_NAME.fullmatch(str(path))
    if location == "data":
        there = any(place.exists() for place in paths_of("data", path))
        return is_local_data(str(path)) and not there
    is_task = location == "task" and str(path).endswith(".toml")
    return (is_task or location in ("path", "paths")) and not Path(path).exists()


def _overridden(draft: Draft, overrides: Overrides) -> dict[str, Any]:
    """Return the overrides that apply to a step; a model from another step is kept."""
    written, kind = stated(draft), draft.command.settings
    known = {*keys_of(kind)} - {*kind.own}
    named = _named_overrides(draft, overrides)
    of_all = {k: v for k, v in overrides.values.items() if k in known}
    for key in ("model", "into"):
        if any(references(draft.command, key, written.get(key))):
            of_all.pop(key, None)
            if key in named:
                raise ConfigError(
                    f"--set {draft.name}.{key}: this step takes the output of {written[key]}",
                    hint=f"change {key} in the recipe",
                )
        elif key == "into" and key in written and "model" in overrides.values:
            of_all = {key: overrides.values["model"]} | of_all
    keys = meant_for((written | of_all | named).get("task"), of_all) | named
    if "into" in keys and "into" not in written:
        raise ConfigError(
            f"--set into: [{draft.name}] has no 'into'",
            hint="set this key in the recipe; it makes the output a folder",
        )
    return {key: _parsed(draft, key, value) for key, value in keys.items()}


def _parsed(draft: Draft, key: str, value: Any) -> Any:
    """Return the value of an override: a list, if the key takes several paths."""
    location = draft.command.location(key)
    if location is None or not isinstance(value, str):
        return value
    names = [part.strip() for part in value.split(",") if part.strip()]
    if any(map(REFERENCE.fullmatch, names)):
        raise ConfigError(
            f"--set {key}={value}: steps can only be named in the recipe", hint="name a path"
        )
    return names if location == "paths" else value


def _named_overrides(draft: Draft, overrides: Overrides) -> dict[str, Any]:
    """Return the overrides that name the step, by key."""
    return {
        key.removeprefix(f"{name}."): value
        for name in _names(draft)
        for key, value in overrides.values.items()
        if key.startswith(f"{name}.") and key != f"{name}.{SEEDS}"
    }


def _trial(
    kind: type[Settings],
    keys: Mapping[str, Any],
    limit: int,
    overridden: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Shrink a step to a trial: a few examples, few steps, short answers.

    Overridden keys are kept, and the batch sizes fit them.
    """
    overridden = overridden or {}
    most = {
        "limit": limit,
        "dev-limit": limit,
        "max-steps": limit,
        "learn-steps": limit,
        "max-new-tokens": _TRIAL_TOKENS,
    }
    known = {name.replace("_", "-"): field.default for name, field in kind.model_fields.items()}
    given = known | dict(keys) | dict(overridden)
    idle = kind.without_effect(given)
    smaller = {
        key: _least(given[key], value)
        for key, value in most.items()
        if key in known and key not in idle
    }
    if "contrastive-batch" in known:
        if "contrastive-batch" not in overridden:
            is_kept = "batch-size" in overridden
            smaller |= _trial_batches(
                given["batch-size"], given["contrastive-batch"], limit, is_kept=is_kept
            )
        batch = _least((given | smaller)["contrastive-batch"])
        smaller["limit"] = _least(given["limit"], max(limit, batch))  # fills at least one batch
    return dict(keys) | smaller | dict(overridden)


def _trial_batches(
    batch_size: Any, contrastive_batch: Any, limit: int, *, is_kept: bool
) -> dict[str, int]:
    """Return batch sizes for at most ``limit`` pairs that fit each other; nothing if none can.

    The error about sizes that do not fit a kept batch size is that of the whole run.
    """
    batch, most = _least(batch_size), _least(contrastive_batch, limit)
    if most < 2:
        return {}
    size = max((size for size in range(2, most + 1) if batch % size == 0), default=most)
    fits = batch % size == 0
    if is_kept and not fits:
        return {}
    return {"contrastive-batch": size, "batch-size": min(batch, 4 * size) if fits else 4 * size}


def _least(stated: Any, *others: int) -> int:
    """Return the smallest number; ``stated`` may be text from the command line, or None."""
    number = int(stated) if re.fullmatch(r"\d+", str(stated)) else None
    return min(value for value in (number, *others, 2**31) if value is not None)


def _invalid(error: ValidationError, draft: Draft, overrides: Overrides) -> ConfigError:
    """Return pydantic's first error as a one-line message with file and line, or the flag."""
    first = error.errors()[0]
    if not first["loc"]:
        return draft.fail(complaint(first))
    key = str(first["loc"][0])
    written = {key, *(f"{name}.{key}" for name in _names(draft))}
    is_overridden = bool(written & overrides.values.keys())
    is_written = key in draft.table and len(first["loc"]) == 1 and not is_overridden
    given = draft.table[key] if is_written else first["input"]  # as written, not as parsed
    message = with_value(f"{key}: {complaint(first)}", given)
    if is_overridden:
        return ConfigError(f"--set {message}")
    if key in draft.table or key not in draft.shared:
        return draft.fail(message, *([key] if key in draft.table else []))
    file = draft.shared[key][0]
    return ConfigError(f"{file}:{line_of(file, None, key)}: {message}")
