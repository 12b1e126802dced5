"""Read text, JSON lines and parquet files, and find files by name.

Every error names the file and, for text, the line.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from adaptermix.errors import DataError, MissingDataError, ResourceError, first_line

Split = Literal["train", "dev", "test"]
T = TypeVar("T")


def json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the JSON values of a JSON lines file with their line numbers; skip blank lines.

    Raises:
        DataError: The file does not exist, or a line is not JSON.
    """
    for number, line in numbered_lines(path):
        if line.strip():
            yield number, json_value(line, f"{path}:{number}")


def json_value(text: str, location: str, *, is_file: bool = False) -> Any:
    """Parse a text as JSON.

    Args:
        text: The text.
        location: Where the text is from, for messages.
        is_file: Whether the text is a whole file, so that errors also name the line.

    Raises:
        DataError: The text is not JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"{location}:{error.lineno}" if is_file else location
        raise DataError(f"{at}: not JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number too long
        raise DataError(f"{location}: not JSON: {first_line(error)}") from error


def find_file(folder: Path, patterns: Sequence[str], what: str) -> Path:
    """Find the only matching file in the folder or up to two levels below it.

    The search stops at the first level with a match.

    Raises:
        DataError: The folder does not exist, or no file or several files match.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder", hint="check --data-dir and --pairs-dir")
    for below in ("", "*/", "*/*/"):
        found = sorted({path for name in patterns for path in folder.glob(below + name)})
        if len(found) > 1:
            raise DataError(
                f"{folder}: several files of {what}: " + ", ".join(map(str, found)),
                hint="name the folder that contains the one you mean",
            )
        if found:
            return found[0]
    raise MissingDataError(f"{folder}: no {what}", hint="looked for " + ", ".join(patterns))


def has_file(folder: Path, patterns: Sequence[str]) -> bool:
    """Whether a file matches in the folder or up to two levels below it."""
    below = ("", "*/", "*/*/")
    return any(next(folder.glob(b + name), None) for b in below for name in patterns)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a text file, plain or gzipped; only newlines end a line.

    A byte order mark, which some editors write, is removed.

    Raises:
        DataError: The file does not exist, is empty, or is not UTF-8 text.
    """
    for number, line in enumerate(raw_lines(path), start=1):
        yield number, line.rstrip("\r\n")


def raw_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file like ``numbered_lines``, with their line endings."""
    number = 0
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file")
    try:
        with path.open("rb") as raw, _decompressed(raw, path) as file:
            for number, line in enumerate(file, start=1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 text: {error}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: not a valid gzip file: {error}") from error
    if not number:
        raise DataError(f"{path}: the file is empty")


def _decompressed(raw: BinaryIO, path: Path) -> AbstractContextManager[Iterable[bytes]]:
    return gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else nullcontext(raw)


def parquet_columns(path: Path) -> list[str]:
    """Return the column names of a parquet file.

    Raises:
        DataError: The file is not a parquet file.
        ResourceError: pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise ResourceError(
            f"{path}: reading Parquet needs pyarrow, which is not installed",
            hint='pip install "adaptermix[parquet]"',
        )
    from pyarrow import ArrowException, parquet

    try:
        return list(parquet.read_schema(path).names)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file: {error}") from error


def parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file with the given columns.

    Raises:
        DataError: A column does not exist, or the file is damaged.
    """
    missing = [name for name in columns if name not in parquet_columns(path)]
    if missing:
        raise DataError(f"{path}: no column '{missing[0]}'")
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=list(columns)):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged Parquet file: {error}") from error


def without_lone_surrogates(text: str) -> str:
    r"""Replace lone surrogates, which JSON can contain (``\ud83d``) but UTF-8 files cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
