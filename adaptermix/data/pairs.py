"""Read parallel sentences, and drop those that are unsuitable for alignment."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise, zip_longest
from pathlib import Path

from adaptermix.data.languages import (
    find_language,
    flores_code,
    is_in_wrong_script,
    known_code,
    plain_code,
    split_pair,
)
from adaptermix.data.pair_tables import (
    Numbered,
    Rows,
    columns_of_pair,
    has_header,
    open_pairs,
    table_pairs,
)
from adaptermix.errors import DataError, MissingDataError
from adaptermix.files.hub_data import find_data_set, is_saved
from adaptermix.files.outputs import cache_folder
from adaptermix.files.text import has_file, numbered_lines
from adaptermix.progress import OnProgress, ignore, tell
from adaptermix.sources.catalog import TATOEBA
from adaptermix.sources.get import Order, get
from adaptermix.tables import number_of


@dataclass(frozen=True)
class ParallelPair:
    """A sentence and its translation; ``pair`` is the language pair, such as ``cy-en``."""

    source: str
    target: str
    pair: str
    location: str = ""  # file and line, or row


@dataclass(frozen=True)
class PairPlace:
    """The location of sentence pairs.

    Attributes:
        place: A folder, a table, or the name of a data set of the Hub; None for OPUS Tatoeba.
        columns: The table's column names, by the names used here. Those of other languages than
            the pair's are left out.
        on_progress: Called with the progress of downloads.
    """

    place: Path | None
    columns: Mapping[str, str] = field(default_factory=dict)
    on_progress: OnProgress = ignore


def read_pairs(
    pair: str, place: Path | PairPlace | None, limit: int | None = None
) -> list[ParallelPair]:
    """Read the first pairs of one language pair, or all; without rows that have an empty side.

    These files are searched in the folder and up to two levels below, with the languages in either
    order: ``cy-en.tsv`` (two tab-separated columns), ``NAME.cy-en.cy`` and ``NAME.cy-en.en``
    (Moses), ``cym_Latn.dev`` and ``eng_Latn.dev`` (FLORES-200), and ``cy-en.parquet`` or
    ``cy-en/train-*.parquet`` (data sets of the Hub). If there is none, ``cy-en.train.json`` (ALMA)
    is read, or else ``cy-en.csv``, ``.jsonl`` or ``.json``. Text files may be gzipped. A table
    instead of a folder must have columns of all languages. Without a place, the pair is downloaded
    from OPUS Tatoeba, once.

    Raises:
        ConfigError: The settings have an unknown column or name.
        DataError: The text is not a pair, there is no such file or several, a line is malformed,
            or there are no pairs.
        ResourceError: The pair cannot be downloaded.
    """
    read = read_pair_rows(pair, place if isinstance(place, PairPlace) else PairPlace(place))
    pairs = list(islice((row for row in read.rows if row.source and row.target), limit))
    if not pairs:
        raise DataError(f"{read.origin}: no {pair} sentence pairs")
    return pairs


def read_pair_rows(pair: str, where: PairPlace) -> Rows[ParallelPair]:
    """Read rows lazily, including those with empty sides, otherwise as ``read_pairs``."""
    source, target = split_pair(pair)
    columns = columns_of_pair(where.columns, (source, target))
    place = where.place or _downloaded(source, target, where.on_progress)
    is_set = find_data_set(str(place)) is not None and (not place.is_dir() or is_saved(place))
    if is_set or place.is_file():
        found = open_pairs(place, (source, target), columns, where.on_progress)
    else:
        found = _local_pairs(place, (source, target), columns)
    name = Path(found.origin).name if Path(found.origin).exists() else found.origin
    rows = (
        ParallelPair((left or "").strip(), (right or "").strip(), pair, f"{name}:{number}")
        for number, (left, right) in found.rows
    )
    return Rows(rows, found.origin, found.names_languages)


# Names of files with sentence pairs; the first group is the pair.
_NAMED = r"(?:.*\.)?(([a-z]\w*)-([a-z]\w*))\.(?:tsv|csv|jsonl?|parquet|train\.json|\2|\3)(?:\.gz)?"


def _local_pairs(
    folder: Path, asked: tuple[str, str], columns: Mapping[str, str]
) -> Rows[Numbered]:
    """Find the pairs of two languages by the codes as written, else by their plain codes."""
    is_there = has_file(folder, [name for names in _names(*asked) for name in names])
    langs = asked if is_there else (plain_code(asked[0]), plain_code(asked[1]))
    source, target = langs
    straight = f"{source}-{target}"
    named, flores, alma, tables = _names(source, target)
    groups = ([*named, *flores], alma, tables)
    names = next((group for group in groups if has_file(folder, group)), groups[0])
    path = find_language(folder, names, straight, f"parallel text {straight}", _NAMED)
    if path.name in flores:
        codes = flores_code(source), flores_code(target)
        return Rows(_side_by_side(path, path.with_name(path.name.replace(*codes))), str(path))
    end = re.search(r"\.(parquet|csv|tsv|jsonl?)(\.gz)?$", path.name)
    if end is None:
        stem = path.name.removesuffix(".gz").removesuffix(source)
        other = path.with_name(stem + target + (".gz" if path.suffix == ".gz" else ""))
        return Rows(_side_by_side(path, other), str(path))
    if end[1] == "tsv" and not columns and not _has_header(path, langs):
        order = 1 if path.name.startswith(straight) else -1
        lines = numbered_lines(path)
        rows = ((number, _two_columns(path, number, line, order)) for number, line in lines)
        return Rows(rows, str(path))
    return table_pairs(path, langs, columns, asked)


def _names(source: str, target: str) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return possible file names: named by the pair, FLORES-200, ALMA, and other tables."""
    both = f"{source}-{target}", f"{target}-{source}"
    columns = [f"{name}{end}" for name in both for end in (".tsv", ".tsv.gz")]
    tables = (".parquet", "/train-*.parquet", "/train/*.parquet")
    columns += [f"{name}{end}" for name in both for end in tables]
    columns += [f"*{name}.{source}{end}" for name in both for end in ("", ".gz")]
    codes = [flores_code(lang) for lang in (source, target)]
    are_flores = all(re.fullmatch("[a-z]{3}_[A-Z][a-z]{3}", code) for code in codes)
    flores = [f"{codes[0]}.dev", f"{codes[0]}.dev.gz"] if are_flores else []
    others = [f"{n}{end}{z}" for n in both for end in (".csv", ".jsonl", ".json") for z in _ZIPPED]
    return columns, flores, [f"{n}.train.json{end}" for n in both for end in _ZIPPED], others


_ZIPPED = ("", ".gz")


def _has_header(path: Path, langs: tuple[str, str]) -> bool:
    _, line = next(numbered_lines(path))
    return has_header(line.split("\t"), langs)


def _two_columns(path: Path, number: int, line: str, order: int) -> tuple[str, str]:
    cells = line.split("\t")
    if len(cells) != 2:
        raise DataError(
            f"{path}:{number}: {len(cells)} tab-separated columns instead of 2",
            hint="write one pair per line: sentence, tab, translation",
        )
    return cells[::order][0], cells[::order][1]


def _side_by_side(path: Path, other: Path) -> Iterator[tuple[int, tuple[str, str]]]:
    if not other.is_file():
        raise DataError(
            f"{other}: no such file next to {path.name}",
            hint="a pair needs a file for each language, both compressed or neither",
        )
    lefts, rights = numbered_lines(path), numbered_lines(other)
    for left, right in zip_longest(lefts, rights):
        if left is None:
            raise _uneven(path, right[0] - 1, other, right[0] + sum(1 for _ in rights))
        if right is None:
            raise _uneven(path, left[0] + sum(1 for _ in lefts), other, left[0] - 1)
        yield left[0], (left[1], right[1])


def _uneven(path: Path, lines: int, other: Path, other_lines: int) -> DataError:
    return DataError(
        f"{path}: {number_of(lines, 'line')}, but {other.name} has {other_lines}",
        hint="line N of one file must be the translation of line N of the other",
    )


def _downloaded(source: str, target: str, on_progress: OnProgress) -> Path:
    """Download the pair if needed, and return its folder in the cache."""
    codes = plain_code(source), plain_code(target)
    mixed = [known_code(code) or code for code in codes]
    pair = "-".join(mixed)
    for code, plain in zip(codes, mixed, strict=True):
        if code != plain:
            raise MissingDataError(
                f"{TATOEBA.title} has no separate file for '{code}'",
                hint=f"use your own data with --pairs-dir, or write {pair} for all scripts",
            )
    order = Order(TATOEBA, (pair,), cache_folder() / "data")
    if any(file.status == "missing" for file in get(order, dry_run=True).files):
        told = f"downloading {pair} of {TATOEBA.title} ({TATOEBA.license}) to {order.folder}"
        tell(on_progress, [f"{told}; cite {TATOEBA.citation}"])
    get(order, on_progress=on_progress)
    return order.folder


_SHORT = set("mr mrs ms dr st prof sr jr vs etc bzw ca z.b e.g i.e sra ud uds mme m".split())
_ENDS = ".!?؟।։።"
_OPENING, _CLOSING = "\"'«“‘([¿¡", "\"'»”’)]"
# The end of a sentence and the start of the next one, without a space in between.
_WIDE_END = re.compile(r"[。！？]\s*[^\s。！？…」』”’）)\]]")


@dataclass(frozen=True)
class CleanPairs:
    """The pairs of one language that are suitable for alignment.

    Attributes:
        kept: The suitable pairs in file order, read lazily.
        dropped: Number of dropped pairs by reason; complete after all of ``kept`` has been read.
        origin: The file or data set.
        names_languages: Whether the file name or the columns name the languages.
    """

    kept: Iterator[ParallelPair]
    dropped: Counter[str]
    origin: str
    names_languages: bool


def read_clean_pairs(
    pair: str, where: PairPlace, *, several_sentences: bool, check_script: bool
) -> CleanPairs:
    """Read the pairs of one language, and drop those that are unsuitable for alignment.

    The paper drops pairs with an empty side or several sentences. This function also drops pairs
    with identical sides, which teach nothing, or with a side in the wrong script.

    Args:
        pair: Both languages, such as ``cy-en``.
        where: Location of the pairs.
        several_sentences: Keep pairs with several sentences on a side.
        check_script: Drop pairs with a side that is mostly not in its language's script.

    Raises:
        DataError: The text is not a pair, there is no such file or several, or a line is
            malformed.
        ResourceError: The pair cannot be downloaded.
    """
    read = read_pair_rows(pair, where)
    langs = split_pair(pair)
    dropped = Counter[str]()

    def kept() -> Iterator[ParallelPair]:
        for row in read.rows:
            reason = _fault(row, langs, several_sentences, check_script)
            if reason is None:
                yield row
            else:
                dropped[reason] += 1

    return CleanPairs(kept(), dropped, read.origin, read.names_languages)


def _fault(
    row: ParallelPair, langs: Sequence[str], several_sentences: bool, check_script: bool
) -> str | None:
    """Return why a pair is unsuitable for alignment, or None."""
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
    """Whether a text contains more than one sentence.

    The rule is an end mark, a space, and a letter that is not lower-case. Abbreviations, initials
    and ellipses do not end a sentence; Chinese and Japanese marks need no space.
    """
    if _WIDE_END.search(text):
        return True
    for token, following in pairwise(text.split()):
        ended = token.rstrip(_CLOSING)
        word = ended.rstrip(_ENDS)
        mark, start = ended[len(word) :], following.lstrip(_OPENING)[:1]
        is_short = len(word) == 1 or word.casefold().strip("(\"'“«") in _SHORT
        is_end = mark not in ("", "..", "...") and not (mark == "." and is_short)
        if is_end and start.isalpha() and not start.islower():
            return True
    return False
