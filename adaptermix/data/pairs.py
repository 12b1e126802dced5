"""Parallel sentences that are fit to align, and why others are not."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from adaptermix.data.alma import has_translations, read_alma
from adaptermix.data.languages import (
    FLORES_CODES,
    find_language,
    is_in_wrong_script,
    known_code,
    split_pair,
)
from adaptermix.errors import DataError
from adaptermix.files.outputs import cache_folder
from adaptermix.files.text import find_file, has_file, numbered_lines, parquet_columns, parquet_rows
from adaptermix.sources.catalog import TATOEBA
from adaptermix.sources.get import Order, get


@dataclass(frozen=True)
class ParallelPair:
    """A sentence and its translation; ``pair`` is the pair of languages, such as ``cy-en``."""

    source: str
    target: str
    pair: str
    location: str = ""  # the file and line, or row, that it is from


def read_pairs(pair: str, data_dir: Path | None) -> list[ParallelPair]:
    """Read the parallel text of one language pair; rows with an empty side are left out.

    In the folder, itself or one below it, these are looked for, with the languages in either
    order: ``cy-en.tsv`` (two tab-separated columns), ``NAME.cy-en.cy`` and ``NAME.cy-en.en``
    (Moses), ``cym_Latn.dev`` and ``eng_Latn.dev`` (FLORES-200), and ``cy-en.parquet`` or
    ``cy-en/train-*.parquet`` (data sets of the hub); where there is none of them,
    ``cy-en.train.json`` (ALMA). Text files may be gzipped. Without a folder, the pair is
    downloaded from OPUS Tatoeba, once.

    Raises:
        DataError: Not a pair, no or several such files, a malformed line, no pairs.
        ResourceError: The pair must be downloaded, and cannot be.
    """
    rows, origin = read_pair_rows(pair, data_dir)
    pairs = [row for row in rows if row.source and row.target]
    if not pairs:
        raise DataError(f"{origin}: no {pair} sentence pairs")
    return pairs


def read_pair_rows(pair: str, data_dir: Path | None) -> tuple[Iterator[ParallelPair], Path]:
    """Read rows as ``read_pairs`` does, one by one, with empty sides too; also name the file."""
    source, target = split_pair(pair)
    rows, origin = _local_pairs(data_dir or _downloaded(source, target), source, target)
    pairs = (
        ParallelPair((left or "").strip(), (right or "").strip(), pair, f"{origin.name}:{number}")
        for number, (left, right) in enumerate(rows, start=1)
    )
    return pairs, origin


# Files of pairs, whose names tell the pair.
_NAMED = r"(?:.*\.)?(([a-z]\w*)-([a-z]\w*))\.(?:tsv|parquet|train\.json|\2|\3)(?:\.gz)?"


def _local_pairs(folder: Path, source: str, target: str) -> tuple[Iterable[tuple[str, str]], Path]:
    """Find the pairs of two languages as they are written, else by their plain codes."""
    plain = known_code(source) or source, known_code(target) or target
    if plain != (source, target) and not has_file(
        folder, [name for names in _names(source, target) for name in names]
    ):
        return _local_pairs(folder, *plain)
    columns, flores, alma = _names(source, target)
    straight, names = f"{source}-{target}", columns + flores
    if not has_file(folder, names) and has_file(folder, alma):
        path = find_file(folder, alma, f"parallel text {straight}")
        return (sides for _, sides in read_alma(path, source, target)), path
    path = find_language(folder, names, straight, f"parallel text {straight}", _NAMED)
    if path.suffix == ".parquet":
        return _parquet_pairs(path, source, target), path
    if ".tsv" in path.suffixes:
        rows = (_two_columns(path, number, line) for number, line in numbered_lines(path))
        return (row if path.name.startswith(straight) else row[::-1] for row in rows), path
    if path.name in flores:
        codes = FLORES_CODES[source], FLORES_CODES[target]
        other = path.with_name(path.name.replace(*codes))
    else:
        stem = path.name.removesuffix(".gz").removesuffix(source)
        other = path.with_name(stem + target + (".gz" if path.suffix == ".gz" else ""))
    return _side_by_side(path, other), path


def _names(source: str, target: str) -> tuple[list[str], list[str], list[str]]:
    """Return the names that files of a pair may have: with it, as FLORES-200, and as ALMA."""
    both = f"{source}-{target}", f"{target}-{source}"
    columns = [f"{name}{end}" for name in both for end in (".tsv", ".tsv.gz")]
    tables = (".parquet", "/train-*.parquet", "/train/*.parquet")
    columns += [f"{name}{end}" for name in both for end in tables]
    columns += [f"*{name}.{source}{end}" for name in both for end in ("", ".gz")]
    codes = [FLORES_CODES.get(code) for code in (source, target)]
    flores = [f"{codes[0]}.dev", f"{codes[0]}.dev.gz"] if all(codes) else []
    return columns, flores, [f"{n}.train.json{end}" for n in both for end in ("", ".gz")]


def _two_columns(path: Path, number: int, line: str) -> tuple[str, str]:
    cells = line.split("\t")
    if len(cells) != 2:
        raise DataError(
            f"{path}:{number}: {len(cells)} tab-separated columns instead of 2",
            hint="one pair a line: sentence, tab, translation",
        )
    return cells[0], cells[1]


def _side_by_side(path: Path, other: Path) -> Iterator[tuple[str, str]]:
    if not other.is_file():
        raise DataError(f"{other}: no such file next to {path.name}")
    lefts, rights = numbered_lines(path), numbered_lines(other)
    for left, right in zip_longest(lefts, rights):
        if left is None:
            raise _uneven(path, right[0] - 1, other, right[0] + sum(1 for _ in rights))
        if right is None:
            raise _uneven(path, left[0] + sum(1 for _ in lefts), other, left[0] - 1)
        yield left[1], right[1]


def _uneven(path: Path, lines: int, other: Path, other_lines: int) -> DataError:
    return DataError(f"{path}: {lines} lines, but {other.name} has {other_lines}")


def _parquet_pairs(path: Path, source: str, target: str) -> Iterable[tuple[str, str]]:
    """Read pairs from the column layouts in use: a translation struct, or two text columns."""
    names = parquet_columns(path)
    if has_translations(names):
        return (sides for _, sides in read_alma(path, source, target))
    if {"english", "non_english"} <= set(names):
        columns = ("non_english", "english") if target == "en" else ("english", "non_english")
        return ((row[columns[0]], row[columns[1]]) for row in parquet_rows(path, columns))
    raise DataError(f"{path}: no columns of sentence pairs among {', '.join(names)}")


def _downloaded(source: str, target: str) -> Path:
    """Return the folder of the pairs that are downloaded where no folder is named."""
    pair = f"{known_code(source) or source}-{known_code(target) or target}"
    order = Order(TATOEBA, (pair,), cache_folder() / "data")
    get(order)
    return order.folder


_SHORT = set("mr mrs ms dr st prof sr jr vs etc bzw ca z.b e.g i.e sra ud uds mme m".split())
# What ends a sentence, and how the next one starts; closing quotes may stand between.
_WIDE_END = re.compile(r"[。！？]\s*[^\s。！？…」』”’）)\]]")
_END = re.compile(r"(\S*?)([.!?؟।։።]+)[\"'»”’)\]]*(?=\s+[\"'«“‘(\[¿¡]*(\w))")


@dataclass(frozen=True)
class CleanPairs:
    """The pairs of one language that are fit to align.

    Attributes:
        kept: In the order of the file, read one after the other.
        dropped: How many were not, by reason; complete when all of ``kept`` has been read.
        origin: The file.
    """

    kept: Iterator[ParallelPair]
    dropped: Counter[str]
    origin: Path


def read_clean_pairs(
    pair: str, data_dir: Path | None, *, several_sentences: bool, check_script: bool
) -> CleanPairs:
    """Read the pairs of one language, and drop those that align nothing or the wrong things.

    The paper leaves out pairs with an empty side or several sentences; here, also those with
    identical sides, which teach nothing, and with a side in another language's script.

    Args:
        pair: Both languages, such as ``cy-en``.
        data_dir: Where they are; OPUS Tatoeba without it.
        several_sentences: Keep pairs with several sentences on a side.
        check_script: Drop sides that are mostly in a script not of their language.

    Raises:
        DataError: Not a pair, no or several such files, a malformed line.
        ResourceError: The pair must be downloaded, and cannot be.
    """
    rows, origin = read_pair_rows(pair, data_dir)
    langs = split_pair(pair)
    dropped = Counter[str]()

    def kept() -> Iterator[ParallelPair]:
        for row in rows:
            reason = _fault(row, langs, several_sentences, check_script)
            if reason is None:
                yield row
            else:
                dropped[reason] += 1

    return CleanPairs(kept(), dropped, origin)


def _fault(
    row: ParallelPair, langs: Sequence[str], several_sentences: bool, check_script: bool
) -> str | None:
    """Return why a pair is not fit to align, or nothing."""
    sides = (row.source, row.target)
    if not all(sides):
        return "empty side"
    if row.source.casefold() == row.target.casefold():
        return "identical sides"
    if not several_sentences and any(has_several_sentences(side) for side in sides):
        return "several sentences"
    if check_script and any(map(is_in_wrong_script, sides, langs)):
        return "wrong script"
    return None


def has_several_sentences(text: str) -> bool:
    """Whether a sentence ends and another one starts within the text.

    A rule, not a model: an end mark, a space, and a letter that is not lower-case. Abbreviations,
    initials and ellipses end nothing; Chinese and Japanese marks need no space.
    """
    if _WIDE_END.search(text):
        return True
    for word, mark, start in _END.findall(text):
        is_short = len(word) == 1 or word.casefold().strip("(\"'“«") in _SHORT
        is_end = mark not in ("..", "...") and not (mark == "." and is_short)
        if is_end and start.isalpha() and not start.islower():
            return True
    return False
