"""``adaptermix.toml``: a section of settings for each command, and top-level keys for all.

A key in the file is the flag without its two dashes. Errors name the file and line.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from adaptermix.commands.catalog import COMMANDS
from adaptermix.errors import AdaptermixError, ConfigError
from adaptermix.files.text import why_no_file
from adaptermix.files.toml import hint_of_keys, line_of, read_toml
from adaptermix.settings.locations import from_folder, split_adapters
from adaptermix.settings.merging import SearchSettings
from adaptermix.settings.scored import ScoredSettings
from adaptermix.settings.shared import (
    ModelSettings,
    Settings,
    complaint,
    flag_of,
    keys_of,
    meant_for,
    not_replaced,
    with_value,
)

CONFIG_NAME = "adaptermix.toml"
S = TypeVar("S", bound=Settings)


def load_settings(kind: type[S], flags: Mapping[str, object], config: Path | None = None) -> S:
    """Combine flags, file and defaults into the settings of one command.

    Args:
        kind: Settings class of the command.
        flags: The options given on the command line, by field name.
        config: The file; by default ``adaptermix.toml`` in the current folder, if it exists.

    Raises:
        ConfigError: A key is unknown, a value is invalid, or the file is unreadable; with
            file and line.
    """
    path = config or Path(CONFIG_NAME)
    if config is not None and not path.is_file():
        raise ConfigError(f"{path}: {why_no_file(path)}", hint="check --config")
    stated = {key.replace("_", "-"): _split(kind, key, value) for key, value in flags.items()}
    from_file = _read_section(path, kind, stated.get("task")) if path.is_file() else {}
    from_file = not_replaced(from_file, stated)
    if "task" in stated:
        from_file = meant_for(stated["task"], from_file)
    try:
        return cast(S, kind.from_keys(from_file | stated))
    except ValidationError as error:
        raise _config_error(error, stated, path, kind) from error


def _split(kind: type[Settings], name: str, value: object) -> object:
    """Split the adapters in repeated flags, each of which may have several: ``A,B``."""
    names_adapters = kind.location(name) in ("adapters", "weighted-adapters")
    if not names_adapters or not isinstance(value, list | tuple):
        return value
    return [part for item in value for part in split_adapters(item)]


@contextmanager
def placing_errors(
    settings: Settings, flags: Mapping[str, object], config: Path | None = None
) -> Iterator[None]:
    """Add file and line to an error about a missing path or model that the settings file names.

    Args:
        settings: The combined settings.
        flags: The options given on the command line, by field name.
        config: The file; by default ``adaptermix.toml`` in the current folder, if it exists.
    """
    try:
        yield
    except AdaptermixError as error:
        path = config or Path(CONFIG_NAME)
        places = _places(settings, flags, path) if path.is_file() else {}
        for name, place in places.items():
            if is_about_missing(error, name):
                raise error.restated(f"{place}: {error.message}", hint=error.hint) from error
        raise


def is_about_missing(error: AdaptermixError, name: str) -> bool:
    """Whether an error is about this path or model, which does not exist on this machine."""
    is_about = re.match(rf"(the model )?{re.escape(name)}(:| is not)", error.message)
    return is_about is not None and not Path(name).exists()


def _places(settings: Settings, flags: Mapping[str, object], path: Path) -> dict[str, str]:
    """Return the paths and models that the file names, with file, line and key."""
    kind, content = type(settings), read_toml(path)
    sections = {None: content, "eval": _tested_like_eval(content, kind)}
    sections[kind.section] = content.get(kind.section, {})
    places: dict[str, str] = {}
    for section, keys in sections.items():
        for key in keys.keys() & {*keys_of(kind)}:
            field = key.replace("-", "_")
            if field not in flags and kind.location(key) is not None:
                value = getattr(settings, field)
                for name in value if isinstance(value, tuple) else (value,):
                    places[str(name)] = f"{path}:{line_of(path, section, key)}: {key}"
    return places


def _read_section(path: Path, kind: type[Settings], task: object) -> dict[str, Any]:
    """Return the file's keys for the command, with paths resolved relative to the file.

    Args:
        path: The file.
        kind: Settings class of the command.
        task: The task on the command line, which decides what keys of other sections apply.
    """
    content = read_toml(path)
    _refuse_unknown_keys(path, content)
    tops = {key: value for key, value in content.items() if not isinstance(value, dict)}
    shared = {key: value for key, value in tops.items() if key in keys_of(kind)}
    own, tested = content.get(kind.section, {}), _tested_like_eval(content, kind)
    merged = meant_for(task or (tested | own).get("task"), shared | tested) | own
    return {k: from_folder(path.parent, kind.location(k), v) for k, v in merged.items()}


def _tested_like_eval(content: Mapping[str, Any], kind: type[Settings]) -> dict[str, Any]:
    """Return the keys that a search takes over from ``eval``'s section, for equal decoding."""
    if not issubclass(kind, SearchSettings):
        return {}
    asked = {*keys_of(ScoredSettings)} - {"limit", *kind.own}
    return {key: value for key, value in content.get("eval", {}).items() if key in asked}


def _refuse_unknown_keys(path: Path, content: Mapping[str, Any]) -> None:
    """Check every section, so that any command reports a mistake in the file."""
    sections = {name: keys_of(command.settings) for name, command in COMMANDS.items()}
    for key, value in content.items():
        if isinstance(value, dict):
            if key not in sections:
                line = line_of(path, key, None)
                raise ConfigError(
                    f"{path}:{line}: unknown section [{key}]",
                    hint="the sections are " + ", ".join(f"[{name}]" for name in sections),
                )
            for inner in value:
                if inner not in sections[key]:
                    raise _unknown_key(path, key, inner, sections[key])
        elif key not in keys_of(ModelSettings):
            raise _unknown_key(path, None, key, keys_of(ModelSettings))


def _unknown_key(path: Path, section: str | None, key: str, known: list[str]) -> ConfigError:
    unknown = f"unknown key '{key}' in [{section}]" if section else f"unknown top-level key '{key}'"
    return ConfigError(
        f"{path}:{line_of(path, section, key)}: {unknown}",
        hint=hint_of_keys(key, known),
    )


def _config_error(
    error: ValidationError, stated: Mapping[str, object], path: Path, kind: type[Settings]
) -> ConfigError:
    """Return pydantic's first error as a one-line message with the flag, or the file and line."""
    first = error.errors()[0]
    message = complaint(first)
    if not first["loc"]:
        return ConfigError(message, hint=f"adaptermix {kind.section} --help")
    key = str(first["loc"][0])
    if key in stated:
        return ConfigError(with_value(f"{flag_of(key)}: {message}", first["input"]))
    sections = (kind.section, *(["eval"] if issubclass(kind, SearchSettings) else []))
    lines = [line_of(path, section, key) for section in (*sections, None)]
    line = next((line for line in lines if line > 1), 1)
    return ConfigError(with_value(f"{path}:{line}: {key}: {message}", first["input"]))
