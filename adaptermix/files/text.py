"""Read text, JSON lines and parquet files, and find files by name.

Every error names the file and, for text, the line.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from adaptermix.errors import DataError, MissingDataError, ResourceError, first_line

Split = Literal["train", "dev", "test"]
T = TypeVar("T")
_SAVE_AS_UTF8 = "save it as UTF-8, for example with iconv -f LATIN1 -t UTF-8"
_ONE_PER_LINE = "write one JSON object per line, with nothing between them"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# The first bytes of files that are often given by mistake, and what to do with them.
_KINDS = (
    (b"\x1f\x8b", "it is compressed with gzip; its name must end in .gz"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with Zstandard; decompress it: zstd -d"),
    (b"BZh", "it is compressed with bzip2; decompress it: bunzip2"),
    (b"\xfd7zXZ", "it is compressed with xz; decompress it: unxz"),
    (b"PK\x03\x04", "it is a zip archive or a spreadsheet; unpack it, or save the sheet as CSV"),
    (b"PAR1", "it is Parquet; its name must end in .parquet"),
    (b"ARROW1", "it is Arrow; name the folder that save_to_disk wrote"),
    (b"\xff\xff\xff\xff", "it is Arrow; name the folder that save_to_disk wrote"),
    (b"%PDF", "it is a PDF; save its text as a table"),
    (b"\xff\xfe", "it is UTF-16; save it as UTF-8: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "it is UTF-16; save it as UTF-8: iconv -f UTF-16 -t UTF-8"),
    (b"version https://git-lfs", "it is a Git LFS pointer; get the file: git lfs pull"),
    (b"<?xml", "it is XML, such as TMX; convert it to a table"),
    (b"<", "it is a web page; download the file itself"),
)


def hint_of_content(path: Path) -> str | None:
    """Return what a file is and what to do, if its first bytes are those of another format."""
    with path.open("rb") as file:
        start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
    return next((told for kind, told in _KINDS if start.startswith(kind)), None)


def json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the JSON values of a JSON lines file with their line numbers; skip blank lines.

    Raises:
        DataError: The file does not exist, or a line is not JSON.
    """
    for number, line in numbered_lines(path):
        if line.strip():
            try:
                value = json_value(line, f"{path}:{number}")
            except DataError as error:
                hint = hint_of_content(path) or _ONE_PER_LINE
                raise DataError(error.message, hint=hint) from error
            yield number, value


def json_value(text: str, location: str, *, is_file: bool = False, hint: str | None = None) -> Any:
    r"""Parse a text as JSON. Lone surrogates (``\ud83d``), which no text file holds, are replaced.

    Args:
        text: The text.
        location: Where the text is from, for messages.
        is_file: Whether the text is a whole file, so that errors also name the line.
        hint: What to do if it is not JSON.

    Raises:
        DataError: The text is not JSON.
    """
    try:
        value = json.loads(text)
        return _whole(value) if _SURROGATE.search(text) else value
    except json.JSONDecodeError as error:
        at = f"{location}:{error.lineno}" if is_file else location
        raise DataError(f"{at}: not JSON: {error.msg}", hint=hint) from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number too long
        raise DataError(f"{location}: not JSON: {first_line(error)}", hint=hint) from error


def _whole(value: Any) -> Any:
    """Return a JSON value whose texts have no lone surrogates."""
    if isinstance(value, str):
        return without_lone_surrogates(value)
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value


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


def why_no_file(path: Path) -> str:
    """Return what a message says of a path that is not a file."""
    return "a folder, not a file" if path.is_dir() else "no such file"


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
        raise MissingDataError(f"{path}: {why_no_file(path)}", hint="check the path")
    try:
        with path.open("rb") as raw, _decompressed(raw, path) as file:
            for number, line in enumerate(file, start=1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        hint = hint_of_content(path) if path.suffix != ".gz" else None
        raise DataError(
            f"{path}:{number}: not UTF-8 text: {error}", hint=hint or _SAVE_AS_UTF8
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}:{number + 1}: not a valid gzip file: {error}",
            hint="copy or download it again; if it is not compressed, remove .gz from its name",
        ) from error
    if not number:
        raise DataError(f"{path}: the file is empty", hint="copy or download it again")


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
        raise _bad_parquet(path, "not a Parquet file", error) from error


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
        raise _bad_parquet(path, "damaged Parquet file", error) from error


def _bad_parquet(path: Path, what: str, error: Exception) -> DataError:
    is_file = path.is_file()
    hint = hint_of_content(path) if is_file and what.startswith("not") else None
    return DataError(
        f"{path}: {what}: {first_line(error)}", hint=hint or "copy or download it again"
    )


def without_lone_surrogates(text: str) -> str:
    r"""Replace lone surrogates, which JSON can contain (``\ud83d``) but UTF-8 files cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
