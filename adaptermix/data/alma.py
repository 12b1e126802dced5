"""ALMA's translation data: ``{"translation": {"de": ..., "en": ...}}``, by lines or in an array."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from adaptermix.errors import DataError
from adaptermix.files.text import json_rows, json_value, numbered_lines


def read_alma(path: Path, source: str, target: str) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield numbered sentences with their translations, as they are.

    Raises:
        DataError: A missing or malformed file, or a record without one of the languages.
    """
    for number, row in _rows(path):
        texts = row.get("translation") if isinstance(row, dict) else None
        sides = [texts.get(code) if isinstance(texts, dict) else None for code in (source, target)]
        if not all(isinstance(side, str) for side in sides):
            raise DataError(f"{path}:{number}: no 'translation' of {source} and {target}")
        yield number, (str(sides[0]), str(sides[1]))


def _rows(path: Path) -> Iterable[tuple[int, Any]]:
    lines = numbered_lines(path)
    if not next(line for _, line in lines).lstrip().startswith("["):
        return json_rows(path)
    text = "\n".join(line for _, line in numbered_lines(path))
    return enumerate(json_value(text, str(path)), start=1)
