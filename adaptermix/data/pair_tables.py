"""Read sentence pairs from tables, and find the columns of the two languages."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any, Generic, TypeVar

from adaptermix.data.alma import Sides, read_translations, translation_column
from adaptermix.data.languages import (
    is_language_name,
    is_one_language,
    known_code,
    split_pair,
)
from adaptermix.data.layouts import Layout, recognize
from adaptermix.errors import ConfigError, DataError
from adaptermix.files.records import Records, open_records
from adaptermix.progress import OnProgress

Numbered = tuple[int, Sides]
T = TypeVar("T")
OPTION = "--pairs-columns"
# Columns that do not name their languages: English is second, or the order is the file name's.
_ENGLISH = (Layout(("non_english", "english")), Layout(("text_parallel_0", "text_parallel_1")))
_ORDERED = Layout(("source", "target"))


@dataclass(frozen=True)
class Rows(Generic[T]):
    """Rows of a language pair, including those with empty sides, and their origin.

    Attributes:
        rows: The rows, read lazily.
        origin: The file or data set.
        names_languages: Whether the file name or the columns name the languages.
    """

    rows: Iterable[T]
    origin: str
    names_languages: bool = True


def open_pairs(
    place: Path, langs: tuple[str, str], columns: Mapping[str, str], on_progress: OnProgress
) -> Rows[Numbered]:
    """Read a table that the user named, or a data set of the Hub.

    If a data set has several configurations, the one named like the pair is read.

    Raises:
        ConfigError: The settings have an unknown column or name.
        DataError: The columns are not pairs of these languages, or a row is malformed.
        ResourceError: The format's reader is not installed, or the Hub cannot be reached.
    """

    def pick(names: Sequence[str]) -> str | None:
        return next((name for name in names if _order(name, langs)), None)

    records = open_records(place, columns, option=OPTION, pick=pick, on_progress=on_progress)
    return _read(records, langs, langs)


def table_pairs(
    path: Path, langs: tuple[str, str], columns: Mapping[str, str], asked: tuple[str, str]
) -> Rows[Numbered]:
    """Read a table that is named like the pair.

    Args:
        path: The table.
        langs: The languages as in its name.
        columns: The table's column names, by the names used here.
        asked: The languages that its columns must not contradict, such as by a region.

    Raises:
        ConfigError: The settings have an unknown column or name.
        DataError: The columns are not pairs of these languages, or a row is malformed.
        ResourceError: The format's reader is not installed.
    """
    return _read(open_records(path, columns, option=OPTION), langs, asked)


def has_header(names: Sequence[str], langs: tuple[str, str]) -> bool:
    """Whether the cells of a file's first line are column names of sentence pairs."""
    layouts = [*_by_language(names, langs), *_ENGLISH, _ORDERED]
    return any({*layout.needed} <= {*names} for layout in layouts)


def columns_of_pair(columns: Mapping[str, str], langs: tuple[str, str]) -> dict[str, str]:
    """Return the columns that the user named, without those of other languages."""
    return {
        name: column
        for name, column in columns.items()
        if not is_language_name(name) or any(is_one_language(name, lang) for lang in langs)
    }


def check_columns(columns: Mapping[str, str], pairs: Sequence[str]) -> None:
    """Check that no column is named for a language that is in no pair.

    Raises:
        ConfigError: A column is.
        DataError: A text is not a pair.
    """
    used = {name for pair in pairs for name in columns_of_pair(columns, split_pair(pair))}
    for name in columns:
        if name not in used:
            raise ConfigError(
                f"{OPTION} {name}={columns[name]}: '{name}' is in none of the pairs",
                hint=f"the pairs are {', '.join(pairs)}",
            )


def _read(records: Records, langs: tuple[str, str], asked: tuple[str, str]) -> Rows[Numbered]:
    numbers = _numbers_of_rows(records)
    by_language = _by_language([name for name in records.names if name not in numbers], asked)
    exact = [] if numbers & {*langs} else [Layout(langs)]
    struct = translation_column(records, *langs)
    layouts = [
        Layout((struct or "translation",)),
        *(by_language or exact),
        *_ENGLISH,
        _ORDERED,
    ]
    layout = recognize(records, layouts, OPTION)
    order = _order(records.origin, langs)
    if len(layout.needed) == 1:
        rows = read_translations(records, layout.needed[0], *langs)
        return Rows(rows, records.origin)
    if layout in _ENGLISH:
        is_straight = known_code(langs[0]) != "en"
    else:
        is_straight = layout in by_language or order >= 0
    names = layout.needed if is_straight else layout.needed[::-1]
    rows = _sides(records, *names)
    return Rows(rows, records.origin, layout in by_language or order != 0)


def _by_language(names: Sequence[str], langs: tuple[str, str]) -> list[Layout]:
    """Return all pairs of columns that the languages name, as codes or English names.

    Even a column named exactly so may be another: ``id`` and ``no`` are also numbers of rows.
    """
    lefts, rights = (_columns_of(lang, names) for lang in langs)
    return [Layout((left, right)) for left, right in product(lefts, rights) if left != right]


def _numbers_of_rows(records: Records) -> set[str]:
    """Return the columns named id or no, unless by the user, whose first cells have no letters."""
    names = [n for n in records.columns if n.casefold() in ("id", "no") and n in records.names]
    names = [name for name in names if name not in records.renamed]
    texts = dict.fromkeys(names, "")
    for _, row in islice(records.rows(names), 20) if names else ():
        for name in names:
            texts[name] += str(row.get(name) or "")
    return {name for name, text in texts.items() if not any(map(str.isalpha, text))}


def _columns_of(lang: str, names: Sequence[str]) -> list[str]:
    """Return the columns that can be of a language, the one named exactly so last."""
    same = [name for name in names if is_language_name(name) and is_one_language(name, lang)]
    return [name for name in same if name != lang] + [lang] * (lang in names)


def _order(name: str, langs: tuple[str, str]) -> int:
    """Return 1 if a name contains the pair in this order, -1 if reversed, and 0 otherwise."""
    for part in re.split(r"[/:.]", name)[::-1]:
        try:
            told = split_pair(part)
        except DataError:
            continue
        if all(map(is_one_language, told, langs)):
            return 1
        if all(map(is_one_language, told, langs[::-1])):
            return -1
    return 0


def _sides(records: Records, left: str, right: str) -> Iterator[Numbered]:
    for number, row in records.rows([left, right]):
        location = records.at(number)
        yield number, (_text(row, left, location), _text(row, right, location))


def _text(row: Mapping[str, Any], name: str, location: str) -> str:
    """Return one side; a null is an empty text, so that the pair is dropped and counted."""
    value = row.get(name, 0)
    if value is not None and not isinstance(value, str):
        raise DataError(
            f"{location}: '{name}' must be text", hint="leave it empty to skip the pair"
        )
    return value or ""
