"""Read ALMA's format, translations by language code: ``{"translation": {"de": ..., "en": ...}}``.

Files are JSON lines, one JSON array, or parquet from the Hub, where the column may also be named by
the pair (``de-en``, as in WMT23-Test).
"""

from collections.abc import Iterator
from pathlib import Path

from adaptermix.errors import DataError
from adaptermix.files.records import Records, open_records

Sides = tuple[str, str]


def read_alma(path: Path, source: str, target: str) -> Iterator[tuple[int, Sides]]:
    """Yield numbered sentence pairs, unchanged.

    Raises:
        DataError: A file is missing or malformed, or a record lacks one of the languages.
    """
    records = open_records(path)
    column = translation_column(records, source, target)
    if column is None and records.is_arrow:
        found = ", ".join(records.columns)
        raise DataError(
            f"{path}: no column for {source}-{target}; the columns are {found}",
            hint="the file contains another pair; correct the pair in its name",
        )
    yield from read_translations(records, column or "translation", source, target)


def translation_column(records: Records, source: str, target: str) -> str | None:
    """Return the column with the texts of both languages, or None."""
    known = ("translation", f"{source}-{target}", f"{target}-{source}")
    return next((name for name in known if name in records.names), None)


def read_translations(
    records: Records, column: str, source: str, target: str
) -> Iterator[tuple[int, Sides]]:
    """Yield numbered sentence pairs from one column.

    Raises:
        DataError: The file is malformed, or a record lacks one of the languages.
    """
    for number, row in records.rows([column]):
        texts = row.get(column)
        if texts is None and records.is_arrow:  # a whole row without texts
            texts = {source: None, target: None}
        there = texts if isinstance(texts, dict) else {}
        found = [there.get(code, 0) for code in (source, target)]
        sides = ["" if side is None else side for side in found]  # a null is an empty text
        if not all(isinstance(side, str) for side in sides):
            raise DataError(
                f"{records.at(number)}: no 'translation' with {source} and {target}",
                hint=f'expected {{"translation": {{"{source}": "...", "{target}": "..."}}}}',
            )
        yield number, (str(sides[0]), str(sides[1]))
