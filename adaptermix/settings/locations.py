"""Settings that name files, models, adapters or tasks, and how their values are resolved.

A ``Path`` field names a file or folder. Other fields declare this in their annotation, as in
``Annotated[str, Names("model")]``.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from adaptermix.files.hub import hub_place, path_of
from adaptermix.files.hub_data import find_data_set

Location = Literal[
    "path",
    "paths",
    "data",
    "model",
    "tokenizer",
    "adapters",
    "weighted-adapters",
    "task",
    "checkpoint",
]
_WEIGHT = re.compile(r"(.+?)(=[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)", re.DOTALL)


@dataclass(frozen=True)
class Names:
    """Annotation of a value that names a model, an adapter, a task, or data on disk or the Hub."""

    location: Location


def location_of(field: FieldInfo) -> Location | None:
    """Return the kind of location that a field's value names; None if it names none."""
    marks = [mark.location for mark in field.metadata if isinstance(mark, Names)]
    if marks:
        return marks[0]
    if get_origin(field.annotation) is tuple:
        return "paths" if Path in get_args(field.annotation) else None
    return "path" if Path in (field.annotation, *get_args(field.annotation)) else None


def without_weight(text: str, folder: Path = Path()) -> tuple[str, str]:
    """Split ``ADAPTER=0.5`` into the adapter and ``=0.5``, unless the whole text is a path."""
    found = _WEIGHT.fullmatch(text)
    if found is None or (folder / text).exists():
        return text, ""
    return found[1], found[2]


def split_adapters(text: str, folder: Path = Path()) -> list[str]:
    """Split ``A,B=0.5`` into its adapters, unless the whole text is an existing path."""
    if (folder / without_weight(text, folder)[0]).exists():
        return [text]
    return [part.strip() for part in text.split(",") if part.strip()]


def is_local_data(value: str, folder: Path = Path()) -> bool:
    """Whether data named in a file is a path, existing or not, and not a data set of the Hub.

    In a file, plain ``OWNER/NAME`` is a path, because ``data/pairs`` may not exist yet. A name on
    the Hub must have a colon or a revision.
    """
    found = find_data_set(value, folder)
    return found is None or found.is_local or not (found.parts or found.revision)


def paths_of(location: Location, value: Any) -> list[Path]:
    """Return the files and folders that a setting may name; some may be names on the Hub.

    Args:
        location: Kind of location that the value names.
        value: The setting's value.
    """
    texts = [str(item) for item in (value if isinstance(value, tuple) else (value,))]
    if location == "weighted-adapters":
        texts = [without_weight(text)[0] for text in texts]
    elif location == "task":
        texts = [text for text in texts if text.endswith(".toml")]
    elif location == "data":  # with parts of the data set after a colon
        texts += [text.partition(":")[0] for text in texts if ":" in text]
    return [path_of(text) for text in texts]


def from_folder(folder: Path, location: Location | None, value: Any) -> Any:
    """Resolve a value from a file relative to the file's folder.

    A model or adapter that does not exist may be a name on the Hub and is returned unchanged, as
    are values of wrong types, which the settings refuse.
    """
    if location in ("adapters", "weighted-adapters") and isinstance(value, str):
        value = split_adapters(value, folder)
    if location in ("paths", "adapters", "weighted-adapters") and isinstance(value, list):
        items = [item for item in value if isinstance(item, str)]
        return [_joined(folder, location, item) for item in items]
    single = ("path", "data", "model", "tokenizer", "task", "checkpoint")
    if location in single and isinstance(value, str):
        return _joined(folder, location, value)
    return value


def at_home(text: str) -> str:
    """Replace a leading ``~/``, which no shell expands in a file, by the home folder."""
    return str(Path.home() / text[2:]) if text.startswith("~/") else text


def _joined(folder: Path, location: Location, value: str) -> str | Path:
    value = at_home(value)
    if location in ("path", "paths"):
        return folder / value
    if location == "weighted-adapters":
        value, weight = without_weight(value, folder)
        return f"{_joined(folder, 'adapters', value)}{weight}"
    there = folder / value
    is_beside = {
        "data": is_local_data(value, folder),
        "task": value.endswith(".toml"),
        "checkpoint": there.is_file(),
        "model": there.is_dir() or value.startswith("."),
        "tokenizer": there.is_dir() or value.startswith("."),
        "adapters": there.exists() or value.startswith(".") or hub_place(value, folder) is None,
    }[location]
    if not is_beside:
        return value
    # pathlib drops the ./ of a missing path, and the rest may read as a name on the Hub.
    return str(there if there.exists() or not hub_place(str(there)) else there.absolute())
