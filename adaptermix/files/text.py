"""Records and the files they are read from: MASSIVE, parallel text, and their copies on the hub.

Files are found by name below a folder, or fetched from the hub when no folder is given. Every
complaint names the file and, where there is one, the line.
"""

import gzip
import json
import random
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from adaptermix.errors import DataError, first_line
from adaptermix.files.hub import hub_parquet

Split = Literal["train", "dev", "test"]


T = TypeVar("T")


MASSIVE_REPO = "AmazonScience/massive"


PAIRS_REPO = "sentence-transformers/parallel-sentences-tatoeba"


# The 52 locales of MASSIVE 1.1; a bare language code stands for the first locale listed for it.
MASSIVE_LOCALES: tuple[str, ...] = tuple(
    """
    af-ZA am-ET ar-SA az-AZ bn-BD ca-ES cy-GB da-DK de-DE el-GR en-US es-ES fa-IR fi-FI fr-FR he-IL
    hi-IN hu-HU hy-AM id-ID is-IS it-IT ja-JP jv-ID ka-GE km-KH kn-IN ko-KR lv-LV ml-IN mn-MN ms-MY
    my-MM nb-NO nl-NL pl-PL pt-PT ro-RO ru-RU sl-SL sq-AL sv-SE sw-KE ta-IN te-IN th-TH tl-PH tr-TR
    ur-PK vi-VN zh-CN zh-TW
    """.split()
)


# FLORES-200 codes of the languages of the paper (its table 9 and appendix C).
FLORES_CODES: dict[str, str] = {
    code.split("=")[0]: code.split("=")[1]
    for code in """
    af=afr_Latn am=amh_Ethi ar=arb_Arab az=azj_Latn bn=ben_Beng cs=ces_Latn cy=cym_Latn da=dan_Latn
    de=deu_Latn el=ell_Grek en=eng_Latn es=spa_Latn fr=fra_Latn he=heb_Hebr hi=hin_Deva hr=hrv_Latn
    hu=hun_Latn hy=hye_Armn id=ind_Latn is=isl_Latn it=ita_Latn ja=jpn_Jpan jv=jav_Latn ka=kat_Geor
    km=khm_Khmr kn=kan_Knda ko=kor_Hang lv=lvs_Latn mn=khk_Cyrl pt=por_Latn ru=rus_Cyrl sk=slk_Latn
    sr=srp_Cyrl sv=swe_Latn sw=swh_Latn th=tha_Thai tl=tgl_Latn tr=tur_Latn uk=ukr_Cyrl ur=urd_Arab
    zh=zho_Hans
    """.split()
}


@dataclass(frozen=True)
class SlotExample:
    """One utterance of MASSIVE; ``locale`` says how the paper's scorer cuts it into tokens."""

    id: str
    lang: str
    utterance: str
    annotated: str
    locale: str = ""


@dataclass(frozen=True)
class ParallelPair:
    """A sentence and its translation; ``pair`` is the pair of languages, such as ``cy-en``."""

    source: str
    target: str
    pair: str
    place: str = ""  # the file and line, or row, that it is from


def massive_locale(lang: str) -> str:
    """Return the MASSIVE locale of a language code (``cy``) or locale (``cy-GB``).

    Raises:
        DataError: MASSIVE has no such language.
    """
    said = lang.replace("_", "-").casefold()
    for locale in MASSIVE_LOCALES:
        if said in (locale.casefold(), locale.split("-")[0]):
            return locale
    raise DataError(f"MASSIVE has no language '{lang}'", hint="it has " + " ".join(MASSIVE_LOCALES))


def split_pair(pair: str) -> tuple[str, str]:
    """Return both language codes of a pair such as ``cy-en``.

    Raises:
        DataError: Not two codes with a dash between them.
    """
    codes = pair.split("-")
    if len(codes) != 2 or not all(code.isalnum() for code in codes) or codes[0] == codes[1]:
        raise DataError(f"'{pair}' is not a language pair", hint="write pairs as cy-en,sw-en")
    return codes[0], codes[1]


def read_massive(lang: str, split: Split, data_dir: Path | None) -> list[SlotExample]:
    """Read one language and partition of MASSIVE, in file order.

    Args:
        lang: Language code or locale.
        split: Partition; MASSIVE calls its development part ``dev``.
        data_dir: Folder that holds ``{locale}.jsonl`` or ``.jsonl.gz``, itself or in a folder
            below; without it the hub's parquet copy is read.

    Raises:
        DataError: Unknown language, no or several such files, malformed or no rows.
        ResourceError: The hub is needed and cannot be reached.
    """
    locale = massive_locale(lang)
    if data_dir is None:
        hub_split = "validation" if split == "dev" else split
        paths = hub_parquet(MASSIVE_REPO, locale, hub_split)
    else:
        endings = (".jsonl", ".jsonl.gz", ".parquet")
        paths = [find_file(data_dir, [f"{locale}{end}" for end in endings], f"MASSIVE {locale}")]
    wanted = None if data_dir is None else split
    rows = [row for path in paths for row in read_massive_file(path, lang, wanted)]
    if not rows:
        raise DataError(f"{paths[0]}: no rows of the {split} partition")
    return rows


def read_massive_file(path: Path, lang: str, split: Split | None) -> list[SlotExample]:
    """Read the rows of one partition, or of all, from one file of MASSIVE.

    Raises:
        DataError: Unknown language, another language's file, a malformed row.
    """
    locale = massive_locale(lang)
    rows = []
    for row in _massive_rows(path):
        said = str(row.get("locale", locale))
        if said.split("-")[0] != locale.split("-")[0]:
            raise DataError(f"{path}: holds {said}, not {locale}")
        if split is None or row["partition"] == split:
            rows.append(SlotExample(str(row["id"]), lang, row["utt"], row["annot_utt"], said))
    return rows


def _massive_rows(path: Path) -> Iterator[dict[str, Any]]:
    fields = ("id", "partition", "utt", "annot_utt")
    if path.suffix == ".parquet":
        yield from _parquet_rows(path, fields)
        return
    for number, row in json_rows(path):
        missing = [f for f in fields if not isinstance(row, dict) or f not in row]
        if missing:
            raise DataError(f"{path}:{number}: no field '{missing[0]}'")
        if not isinstance(row["utt"], str) or not isinstance(row["annot_utt"], str):
            raise DataError(f"{path}:{number}: 'utt' and 'annot_utt' must be text")
        yield row


def json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the numbered JSON values of a file with one on each line; blank lines are skipped.

    Raises:
        DataError: No such file, or a line that is not JSON.
    """
    for number, line in numbered_lines(path):
        if line.strip():
            yield number, json_value(line, f"{path}:{number}")


def json_value(text: str, place: str) -> Any:
    """Return the JSON value a text holds; ``place`` is named when it holds none.

    Raises:
        DataError: Not JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:  # nested too deep, or a number without end
        raise DataError(f"{place}: not readable as JSON: {first_line(error)}") from error


def read_pairs(pair: str, data_dir: Path | None) -> list[ParallelPair]:
    """Read the parallel text of one language pair; rows with an empty side are left out.

    In the folder, itself or one below it, these are looked for, with the languages in either
    order: ``cy-en.tsv`` (two tab-separated columns), ``NAME.cy-en.cy`` and ``NAME.cy-en.en``
    (Moses), ``cym_Latn.dev`` and ``eng_Latn.dev`` (FLORES-200), and ``cy-en.parquet``; where there
    is none of them, ``cy-en.train.json`` (ALMA). Text files may be gzipped. Without a folder, the
    hub's copy of Tatoeba is read.

    Raises:
        DataError: Not a pair, no or several such files, a malformed line, no pairs.
        ResourceError: The hub is needed and cannot be reached.
    """
    rows, origin = read_pair_rows(pair, data_dir)
    pairs = [row for row in rows if row.source and row.target]
    if not pairs:
        raise DataError(f"{origin}: no {pair} sentence pairs")
    return pairs


def read_pair_rows(pair: str, data_dir: Path | None) -> tuple[Iterator[ParallelPair], Path]:
    """Read rows as ``read_pairs`` does, one by one, with empty sides too; also name the file."""
    source, target = split_pair(pair)
    if data_dir is None:
        rows, origin = _hub_pairs(source, target)
    else:
        rows, origin = _local_pairs(data_dir, source, target)
    pairs = (
        ParallelPair((left or "").strip(), (right or "").strip(), pair, f"{origin.name}:{number}")
        for number, (left, right) in enumerate(rows, start=1)
    )
    return pairs, origin


def _local_pairs(folder: Path, source: str, target: str) -> tuple[Iterable[tuple[str, str]], Path]:
    straight, swapped = f"{source}-{target}", f"{target}-{source}"
    columns = [f"{name}{end}" for name in (straight, swapped) for end in (".tsv", ".tsv.gz")]
    columns += [f"{straight}.parquet", f"{swapped}.parquet"]
    moses = [f"*{name}.{source}{end}" for name in (straight, swapped) for end in ("", ".gz")]
    codes = [FLORES_CODES.get(code) for code in (source, target)]
    flores = [f"{codes[0]}.dev", f"{codes[0]}.dev.gz"] if all(codes) else []
    names = columns + moses + flores
    alma = [f"{name}.train.json{end}" for name in (straight, swapped) for end in ("", ".gz")]
    if not has_file(folder, names) and has_file(folder, alma):
        path = find_file(folder, alma, f"parallel text {straight}")
        return (_translation(path, *row, source, target) for row in json_rows(path)), path
    path = find_file(folder, names, f"parallel text {straight}")
    if path.suffix == ".parquet":
        return _parquet_pairs(path, source, target), path
    if ".tsv" in path.suffixes:
        rows = (_two_columns(path, number, line) for number, line in numbered_lines(path))
        return (row if path.name.startswith(straight) else row[::-1] for row in rows), path
    if path.name in flores:
        other = path.with_name(path.name.replace(str(codes[0]), str(codes[1])))
    else:
        stem = path.name.removesuffix(".gz").removesuffix(source)
        other = path.with_name(stem + target + (".gz" if path.suffix == ".gz" else ""))
    return _side_by_side(path, other), path


def _two_columns(path: Path, number: int, line: str) -> tuple[str, str]:
    cells = line.split("\t")
    if len(cells) != 2:
        raise DataError(
            f"{path}:{number}: {len(cells)} tab-separated columns instead of 2",
            hint="one pair a line: sentence, tab, translation",
        )
    return cells[0], cells[1]


def _translation(path: Path, number: int, row: Any, source: str, target: str) -> tuple[str, str]:
    texts = row.get("translation") if isinstance(row, dict) else None
    sides = [texts.get(code) if isinstance(texts, dict) else None for code in (source, target)]
    if not all(isinstance(side, str) for side in sides):
        raise DataError(f"{path}:{number}: no 'translation' of {source} and {target}")
    return str(sides[0]), str(sides[1])


def _side_by_side(path: Path, other: Path) -> Iterator[tuple[str, str]]:
    if not other.is_file():
        raise DataError(f"{other}: no such file beside {path.name}")
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
    names = _parquet_columns(path)
    if "translation" in names:
        rows = (row["translation"] for row in _parquet_rows(path, ("translation",)))
        return ((row[source], row[target]) for row in rows)
    if {"english", "non_english"} <= set(names):
        columns = ("non_english", "english") if target == "en" else ("english", "non_english")
        return ((row[columns[0]], row[columns[1]]) for row in _parquet_rows(path, columns))
    raise DataError(f"{path}: no columns of sentence pairs among {', '.join(names)}")


def hold_out(rows: Sequence[T], most: int, rng: random.Random) -> tuple[list[T], list[T]]:
    """Split rows at random into what is kept and what is held out: a tenth, ``most`` at most."""
    order = rng.sample(range(len(rows)), len(rows))
    count = min(most, max(1, len(rows) // 10))
    held = set(order[:count])
    kept = [row for index, row in enumerate(rows) if index not in held]
    return kept, [rows[index] for index in sorted(held)]


def resample_evenly(groups: Sequence[Sequence[T]], rng: random.Random) -> list[T]:
    """Repeat the rows of the smaller groups until each group is as large as the largest."""
    return resample(groups, 0.0, rng)


def resample(groups: Sequence[Sequence[T]], exponent: float, rng: random.Random) -> list[T]:
    """Repeat rows until each group's share grows with its size to the power of the exponent.

    An exponent of 0 gives all groups the size of the largest, 1 leaves them as they are, and
    values between are the temperature sampling of multilingual pretraining (Conneau & Lample,
    2019). Each group is repeated whole as often as it fits, and filled up by rows drawn without
    replacement, so that no row occurs more than once more than another of its group.
    """
    largest = max(len(group) for group in groups)
    rows: list[T] = []
    for group in groups:
        size = round(largest * (len(group) / largest) ** exponent)
        whole, rest = divmod(size, len(group))
        rows.extend([*group] * whole + rng.sample(list(group), rest))
    rng.shuffle(rows)
    return rows


def find_file(folder: Path, patterns: Sequence[str], what: str) -> Path:
    """Find the file in the folder or up to two levels below it, where there is just one.

    Raises:
        DataError: No such folder, no such file, or several.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder", hint="check --data-dir and --pairs-dir")
    for below in ("", "*/", "*/*/"):
        found = sorted({path for name in patterns for path in folder.glob(below + name)})
        if len(found) > 1:
            raise DataError(
                f"{folder}: several files of {what}: " + ", ".join(map(str, found)),
                hint="name the folder that holds the one you mean",
            )
        if found:
            return found[0]
    raise DataError(f"{folder}: no {what}", hint="looked for " + ", ".join(patterns))


def has_file(folder: Path, patterns: Sequence[str]) -> bool:
    """Whether one such file is in the folder or up to two levels below it."""
    below = ("", "*/", "*/*/")
    return any(next(folder.glob(b + name), None) for b in below for name in patterns)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbered lines of a text file, plain or gzipped; only newlines end a line.

    The byte order mark that some editors put before the first line is no part of it.

    Raises:
        DataError: No such file, an empty one, or one that is not UTF-8 text.
    """
    number = 0
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with path.open("rb") as raw, _decompressed(raw, path) as file:
            for number, line in enumerate(file, start=1):
                encoding = "utf-8-sig" if number == 1 else "utf-8"
                yield number, line.decode(encoding).rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not readable as UTF-8 text: {error}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: not readable as gzip: {error}") from error
    if not number:
        raise DataError(f"{path}: the file is empty")


def _decompressed(raw: BinaryIO, path: Path) -> AbstractContextManager[Iterable[bytes]]:
    return gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else nullcontext(raw)


def _parquet_columns(path: Path) -> list[str]:
    from pyarrow import ArrowException, parquet

    try:
        return list(parquet.read_schema(path).names)
    except ArrowException as error:
        raise DataError(f"{path}: not a parquet file: {error}") from error


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    missing = [name for name in columns if name not in _parquet_columns(path)]
    if missing:
        raise DataError(f"{path}: no column '{missing[0]}'")
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=list(columns)):
            yield from batch.to_pylist()


def _hub_pairs(source: str, target: str) -> tuple[Iterable[tuple[str, str]], Path]:
    if "en" not in (source, target):
        raise DataError(
            f"the hub's Tatoeba copy has pairs with English only, not {source}-{target}",
            hint="give your own parallel text with --pairs-dir",
        )
    other = source if target == "en" else target
    paths = hub_parquet(PAIRS_REPO, f"en-{other}", "train")
    rows = (row for path in paths for row in _parquet_pairs(path, source, target))
    return rows, paths[0]


def without_lone_surrogates(text: str) -> str:
    r"""Replace halves of characters, which JSON can hold (``\ud83d``) and no file can."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
