"""Inventory of the local public data: files, rows, and whether they match the record."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adaptermix.errors import DataError
from adaptermix.files.text import json_value, numbered_lines
from adaptermix.sources.catalog import SOURCES
from adaptermix.sources.lock import Lock, read_lock
from adaptermix.sources.source import Source
from adaptermix.tables import number_of

# Expected rows of every file, by folder and suffix.
_ROWS = {
    ("massive", ".jsonl"): 16_521,
    ("flores200", ".dev"): 997,
    ("flores200", ".devtest"): 1012,
}


@dataclass(frozen=True)
class Stock:
    """The local data of one source.

    Attributes:
        source: Name of the source.
        folder: Its folder.
        files: Number of files.
        rows: Total number of rows; files whose rows cannot be counted are ignored.
        recorded: Number of files that match ``sources.lock``.
        changed: Files that do not match it.
        odd: Messages about files that cannot be read or have an unexpected number of rows.
    """

    source: str
    folder: str
    files: int
    rows: int
    recorded: int
    changed: list[str]
    odd: list[str]

    @property
    def others(self) -> int:
        """Number of files that are not recorded."""
        return self.files - self.recorded - len(self.changed)


def stocks(folder: Path) -> list[Stock]:
    """Return the local data of each source.

    Raises:
        DataError: The record is damaged.
    """
    lock = read_lock(folder)
    return [_stock(folder, source, lock) for source in SOURCES.values()]


def _stock(folder: Path, source: Source, lock: Lock) -> Stock:
    own = folder / source.folder
    paths = sorted(_data_files(own))
    recorded, changed, odd = 0, [], []
    total = 0
    for path in paths:
        is_same = lock.knows(f"{source.folder}/{path.relative_to(own).as_posix()}", path)
        if is_same:
            recorded += 1
        elif is_same is not None:
            changed.append(str(path))
        try:
            rows = count_rows(path)
        except DataError as error:
            odd.append(error.message)
            continue
        total += rows or 0
        expected = _ROWS.get((source.folder, Path(path.name.removesuffix(".gz")).suffix), rows)
        if rows != expected:
            odd.append(f"{path} has {number_of(rows or 0, 'row')}, not {expected or 0:,}")
    return Stock(source.name, str(own), len(paths), total, recorded, changed, odd)


def _data_files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*") if folder.is_dir() else ():
        inner = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inner.parts):
            yield path


def count_rows(path: Path) -> int | None:
    """Count the rows of a file: lines, sentences of .iob2, or items of a JSON array.

    Returns None for parquet if pyarrow is not installed.

    Raises:
        DataError: The file cannot be read.
    """
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        return _parquet_rows(path)
    if path.stat().st_size == 0:
        return 0
    lines = [line for _, line in numbered_lines(path)]
    if name.endswith(".iob2"):
        starts = zip(lines, ["", *lines], strict=False)
        return sum(bool(line.strip()) and not before.strip() for line, before in starts)
    if name.endswith(".json") and lines[0].lstrip().startswith("["):
        items: Any = json_value("\n".join(lines), str(path))
        return len(items)
    if name.endswith((".json", ".jsonl")):
        return sum(bool(line.strip()) for line in lines)
    return len(lines)


def _parquet_rows(path: Path) -> int | None:
    if find_spec("pyarrow") is None:
        return None
    from pyarrow import ArrowException, parquet

    try:
        return int(parquet.read_metadata(path).num_rows)
    except ArrowException as error:
        raise DataError(
            f"{path}: not a Parquet file: {error}", hint="copy or download it again"
        ) from error
