"""Rows of tables: CSV, TSV, parquet, JSON, JSON lines, and data sets of the Hub.

All formats yield the same rows: a number and the fields by name. The number is the line in text
files with one row per line, otherwise the row's position, counted from 1.
"""

import csv
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptermix.errors import ConfigError, DataError, MissingDataError
from adaptermix.files.hub_data import find_data_set, open_data_set
from adaptermix.files.text import (
    hint_of_content,
    json_rows,
    json_value,
    numbered_lines,
    parquet_columns,
    parquet_rows,
    raw_lines,
    why_no_file,
)
from adaptermix.progress import OnProgress, ignore
from adaptermix.tables import number_of

_HEADER = "line 1 must name the columns"
_OBJECT = 'write each row as a JSON object: {"prompt": "...", "completion": "..."}'
_QUOTES = 'put quotes around text with commas or newlines, and double the quotes inside it: ""'
_NO_FILE = "check the path; data sets on the Hub are written OWNER/NAME[:CONFIG][:SPLIT]"
Row = tuple[int, dict[str, Any]]
Pick = Callable[[Sequence[str]], str | None]


@dataclass(frozen=True)
class Records:
    """A table: its columns, and a function that reads its rows.

    Attributes:
        origin: The file or data set, for messages.
        columns: Names of the columns; for JSON, those of the first row.
        read: Yields the rows with at least the given columns.
        renamed: Columns by their new names.
        is_arrow: Whether missing fields are null, as in parquet.
    """

    origin: str
    columns: tuple[str, ...]
    read: Callable[[Sequence[str]], Iterator[Row]]
    renamed: Mapping[str, str]
    is_arrow: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the columns after renaming."""
        taken = {*self.renamed.values(), *self.renamed}
        return [*self.renamed, *(name for name in self.columns if name not in taken)]

    def at(self, number: int) -> str:
        """Return the location of a row, for messages."""
        return f"{self.origin}:{number}"

    def rows(self, names: Collection[str]) -> Iterator[Row]:
        """Yield the rows with those of the named fields that they have.

        Raises:
            DataError: A row is malformed, or the table has no rows.
            ResourceError: A data set of the Hub cannot be read any further.
        """
        sources = {name: self.renamed.get(name, name) for name in names}
        is_empty = True
        for number, row in self.read(list(sources.values())):
            is_empty = False
            yield number, {name: row[column] for name, column in sources.items() if column in row}
        if is_empty:
            raise MissingDataError(f"{self.origin}: no records", hint="name a file with rows")


def open_records(
    place: Path,
    columns: Mapping[str, str] | None = None,
    *,
    option: str = "--columns",
    pick: Pick = lambda names: None,
    on_progress: OnProgress = ignore,
) -> Records:
    """Open a file by its suffix, or a data set of the Hub, ``OWNER/NAME[:CONFIG][:SPLIT]``.

    The suffixes are ``.csv``, ``.tsv``, ``.json``, ``.jsonl`` and ``.parquet``; text files may also
    end in ``.gz``. Files with another suffix are read as JSON.

    Args:
        place: The file, or the name of the data set.
        columns: Columns of the table by their new names.
        option: The option that sets ``columns``, for messages.
        pick: Chooses a configuration of a data set if none is given.
        on_progress: Called with the data set that is read.

    Raises:
        ConfigError: ``columns`` names a column that does not exist.
        DataError: The file does not exist or is malformed.
        ResourceError: A package that reads the format is not installed, or the Hub cannot be
            reached.
    """
    table = _open(place, pick, on_progress)
    for name, column in (columns or {}).items():
        if column not in table.columns:
            raise ConfigError(
                f"{option} {name}={column}: {table.origin} has no column '{column}'",
                hint=f"it has {', '.join(table.columns)}",
            )
    return Records(table.origin, table.columns, table.read, columns or {}, table.is_arrow)


def _open(place: Path, pick: Pick, on_progress: OnProgress) -> Records:
    data_set = find_data_set(str(place))
    if data_set is not None:
        stream = open_data_set(data_set, pick, on_progress)
        return Records(stream.origin, stream.columns, stream.rows, {}, is_arrow=True)
    name = place.name.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        if not place.is_file():
            raise MissingDataError(f"{place}: {why_no_file(place)}", hint=_NO_FILE)
        known = tuple(parquet_columns(place))
        _check_repeated(str(place), known)

        def parquet(names: Sequence[str]) -> Iterator[Row]:
            wanted = [name for name in dict.fromkeys(names) if name in known]
            yield from enumerate(parquet_rows(place, wanted), start=1)

        return Records(str(place), known, parquet, {}, is_arrow=True)
    if not place.exists():
        raise MissingDataError(f"{place}: no such file", hint=_NO_FILE)
    read = _json if not name.endswith((".csv", ".tsv")) else _separated
    _, first = next(read(place), (0, None))
    if first is None:
        hint = _HEADER if read is _separated else "name a file with rows"
        raise MissingDataError(f"{place}: no records", hint=hint)
    return Records(str(place), tuple(first), lambda names: read(place), {})


def _separated(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file whose first line names the columns.

    Columns without a name are left out, such as the row numbers that pandas writes. Spreadsheets
    in many languages write CSV with semicolons, so these, tabs and vertical bars are accepted if
    the first line has no comma. TSV has no quoting: a tab ends a cell, a newline ends a row. All
    cells are text.
    """
    csv.field_size_limit(sys.maxsize)  # by default, the module rejects cells of more than 128 kB
    is_tsv = path.name.lower().removesuffix(".gz").endswith(".tsv")
    end = 0
    try:
        if is_tsv:
            lines = (line for _, line in numbered_lines(path))
            rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        else:
            rows = csv.reader(raw_lines(path), delimiter=_delimiter(path), strict=True)
        names = [name.strip() for name in next(rows)]
        _check_header(path, names)
        end = rows.line_num
        for cells in rows:
            start, end = end + 1, rows.line_num
            if cells and len(cells) != len(names):
                raise DataError(
                    f"{path}:{start}: {number_of(len(cells), 'cell')}, but the header has "
                    f"{number_of(len(names), 'column')}",
                    hint="" if is_tsv else 'put quotes around text with commas: "yes, please"',
                )
            if cells:
                named = zip(names, cells, strict=True)
                yield start, {name: cell for name, cell in named if name}
    except csv.Error as error:
        kind = "TSV" if is_tsv else "CSV"
        if "new-line character" in str(error):
            raise DataError(
                f"{path}:{end + 1}: not valid {kind}: a carriage return without a newline",
                hint="save it with the line endings of Unix (LF) or Windows (CR LF)",
            ) from error
        raise DataError(f"{path}:{end + 1}: not valid {kind}: {error}", hint=_QUOTES) from error


def _delimiter(path: Path) -> str:
    """Return the comma, or the other mark that separates the names of a header without commas."""
    header = next(csv.reader(raw_lines(path)), [])
    line = header[0] if len(header) == 1 else ""
    return max(";\t|", key=line.count) if any(mark in line for mark in ";\t|") else ","


def _check_header(path: Path, names: list[str]) -> None:
    if not any(names):
        raise DataError(f"{path}:1: the columns have no names", hint=_HEADER)
    if len(names) == 1 and any(mark in names[0] for mark in ";\t,"):
        raise DataError(
            f"{path}:1: only one column, {names[0]!r}",
            hint="separate the columns of .csv files with commas, those of .tsv files with tabs",
        )
    _check_repeated(f"{path}:1", [name for name in names if name])


def _check_repeated(place: str, names: Sequence[str]) -> None:
    repeated = [name for at, name in enumerate(names) if name in names[:at]]
    if repeated:
        raise DataError(
            f"{place}: two columns are named '{repeated[0]}'", hint="give them different names"
        )


def _json(path: Path) -> Iterator[Row]:
    """Yield the objects of JSON lines, of a JSON array, or of an object that contains the array."""
    for number, value in _items(path) if _is_one_value(path) else json_rows(path):
        if not isinstance(value, dict):
            raise DataError(f"{path}:{number}: not a JSON object", hint=_OBJECT)
        yield number, value


def _is_one_value(path: Path) -> bool:
    """Whether a file is one JSON value: an array, or an object that contains the rows."""
    lines = (line for _, line in numbered_lines(path) if line.strip())
    first, more = next(lines, "").strip(), next(lines, None)
    if first.startswith("[") or not path.name.lower().removesuffix(".gz").endswith(".json"):
        return first.startswith("[")
    return more is None or first.endswith(("{", "[", ","))


def _items(path: Path) -> Iterator[tuple[int, Any]]:
    text = "\n".join(line for _, line in numbered_lines(path))
    hint = hint_of_content(path) or "write an array of objects: [{...}, {...}]"
    value = json_value(text, str(path), is_file=True, hint=hint)
    rows = value if isinstance(value, list) else _rows_in(value)
    yield from enumerate([value] if rows is None else rows, start=1)


def _rows_in(value: Any) -> list[Any] | None:
    """Return the only list of objects in an object, if these are no messages of one row."""
    lists = [
        item
        for item in (value.values() if isinstance(value, dict) else ())
        if isinstance(item, list) and item and all(isinstance(row, dict) for row in item)
    ]
    is_row = any({"role", "from"} & row.keys() for item in lists for row in item)
    return lists[0] if len(lists) == 1 and not is_row else None
