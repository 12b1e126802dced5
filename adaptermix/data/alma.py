"""Translations by language code: ``{"translation": {"de": ..., "en": ...}}``, as ALMA has them.

They come as JSON lines, in one JSON array, or as parquet of the hub, where the column may also have
the name of the pair (``de-en``, as in WMT23-Test).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from adaptermix.errors import DataError
from adaptermix.files.text import (
    json_rows,
    json_value,
    numbered_lines,
    parquet_columns,
    parquet_rows,
)


def read_alma(path: Path, source: str, target: str) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield numbered sentences with their translations, as they are.

    Raises:
        DataError: A missing or malformed file, or a record without one of the languages.
    """
    is_parquet = path.suffix == ".parquet"
    for number, row in _columns(path, source, target) if is_parquet else _rows(path):
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


def _columns(path: Path, source: str, target: str) -> Iterator[tuple[int, Any]]:
    names = parquet_columns(path)
    known = ("translation", f"{source}-{target}", f"{target}-{source}")
    column = next((name for name in known if name in names), None)
    if column is None:
        raise DataError(f"{path}: no column of {source}-{target} among {', '.join(names)}")
    for number, row in enumerate(parquet_rows(path, [column]), start=1):
        texts = {code: text or "" for code, text in (row[column] or {}).items()}
        yield number, {"translation": texts}


def has_translations(names: Iterable[str]) -> bool:
    """Whether a parquet file with these columns is of this form."""
    return any(name == "translation" or _is_pair(name) for name in names)


def _is_pair(name: str) -> bool:
    codes = name.split("-")
    return len(codes) == 2 and all(2 <= len(code) <= 3 and code.isalpha() for code in codes)
