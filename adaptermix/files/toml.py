"""Read TOML files, and find the line of a key."""

import re
import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from adaptermix.errors import ConfigError, first_line

_ONCE = "use each name only once; a step of a recipe cannot have the name of a setting"


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: The file is not valid TOML; the message names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"line (\d+)", str(error))
        number = at[1] if at else len(text.splitlines())
        is_repeated = re.match(r"Cannot (overwrite|declare)", str(error))
        raise ConfigError(
            f"{path}:{number}: not valid TOML: {error}", hint=_ONCE if is_repeated else None
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{path}:1: lists or tables are nested too deeply") from error
    except ValueError as error:  # a number of more digits than Python converts
        raise ConfigError(f"{path}:1: not valid TOML: {first_line(error)}") from error


def hint_of_keys(key: str, known: Sequence[str]) -> str:
    """Return a hint for an unknown key: the closest known key, or a list of all keys."""
    near = get_close_matches(key, known, 1)
    return f"did you mean {near[0]}?" if near else "the keys are " + ", ".join(known)


def line_of(path: Path, section: str | None, key: str | None) -> int:
    """Return the line of a key or section header in a file, or 1 if it is not found."""
    current: str | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        header = re.match(r"\s*\[\s*([^\]]+?)\s*\]", line)
        if header:
            current = header[1].strip("\"'")
            if key is None and current == section:
                return number
        elif key is not None and current == section and _assigns(line, key):
            return number
    return 1


def _assigns(line: str, key: str) -> bool:
    return re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]", line) is not None
