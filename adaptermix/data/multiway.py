"""Read multi-way parallel text like FLORES-200: one file per language with the same sentences.

Line n of every file is the same sentence. Files are named by their language, as a FLORES-200 code
(``cym_Latn``) or a short code (``cy``). FLORES+ has other file names, and text, JSON lines or
parquet with a column ``text``.
"""

import glob
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from adaptermix.data.languages import (
    FLORES_CODES,
    THREE_LETTERS,
    flores_code,
    hint_of_language,
    known_code,
)
from adaptermix.errors import DataError
from adaptermix.files.records import open_records
from adaptermix.files.text import find_file, numbered_lines
from adaptermix.tables import number_of

_ENDINGS = ("", ".gz")
_TABLES = (".jsonl", ".jsonl.gz", ".parquet")  # as in FLORES+, with a column "text"
_FLORES_SPLITS = ("dev", "devtest")
# Languages with different codes in FLORES-200 and FLORES+.
_FLORES_PLUS = {
    "zho_Hans": "cmn_Hans",
    "zho_Hant": "cmn_Hant",
    "tgl_Latn": "fil_Latn",
    "est_Latn": "ekk_Latn",
}


def read_multiway(langs: Sequence[str], split: str, folder: Path) -> dict[str, list[str]]:
    """Read the same sentences in every language.

    The files are searched in the folder and up to two levels below. For the split ``dev`` they are
    ``LANG.dev`` or ``LANG.txt``, plain or ``.gz``. In FLORES+ they are ``dev.LANG``, plain or with
    ``.gz``, ``.jsonl``, ``.jsonl.gz`` or ``.parquet``, or ``dev/LANG`` with one of the last three.

    Args:
        langs: Languages, as FLORES-200 codes, short codes, or any other file stems.
        split: Part of the data, such as ``dev`` or ``devtest`` of FLORES-200.
        folder: Folder of the files.

    Returns:
        Sentences by language, stripped, in the order of ``langs``.

    Raises:
        DataError: A language has no file or is named twice, a line is empty, files differ in
            their numbers of lines, or there are fewer than two lines.
    """
    paths = {lang: _find(lang, split, folder) for lang in langs}
    seen: dict[Path, str] = {}
    for lang, path in paths.items():
        if (other := seen.setdefault(path, lang)) != lang:
            raise DataError(
                f"'{other}' and '{lang}' both name the file {path}", hint="name each language once"
            )
    texts = {lang: _sentences(path) for lang, path in paths.items()}
    first = next(iter(langs))
    for lang, sentences in texts.items():
        _check_count(paths[lang], len(sentences), paths[first], len(texts[first]))
    if len(texts[first]) < 2:
        raise DataError(f"{paths[first]}: retrieval needs more than one sentence")
    return texts


def _find(lang: str, split: str, folder: Path) -> Path:
    names = _spellings(lang)
    patterns = [
        f"{n}.{suffix}{end}" for n in names for suffix in (split, "txt") for end in _ENDINGS
    ]
    starts = [f"{split}.", f"{split}/", *([""] if folder.name == split else [])]
    patterns += [
        f"{start}{n}{end}"
        for n in names
        for start in starts
        for end in ([*_TABLES, *_ENDINGS] if start.endswith(".") else _TABLES)
    ]
    try:
        return find_file(folder, patterns, f"{split} text in '{lang}'")
    except DataError as error:
        if not folder.is_dir() or "several files" in error.message:
            raise
        told = _what_is_there(lang, split, folder)
        raise DataError(f"{folder}: no {split} text in '{lang}'", hint=told) from error


def _spellings(lang: str) -> list[str]:
    """Return glob patterns for the spellings of a language in file names."""
    code, flores = known_code(lang), flores_code(lang)
    if code in FLORES_CODES and flores != FLORES_CODES[code]:  # another script
        others = [flores]
    else:
        others = [code, flores] if code else []
        letters = THREE_LETTERS.get(code or "", lang if len(lang) == 3 and not code else None)
        if letters and flores == lang and not lang.startswith(f"{letters}_"):
            others.append(f"{letters}_*")
    for flores_200, plus in _FLORES_PLUS.items():
        others += [plus for name in (lang, *others) if name and fnmatch(flores_200, name)]
    return [glob.escape(lang), *(other for other in others if other and other != lang)]


def _what_is_there(lang: str, split: str, folder: Path) -> str:
    if there := _languages_there(split, folder):
        return hint_of_language(lang, there)
    others = [other for other in _FLORES_SPLITS if _languages_there(other, folder)]
    if others:
        return f"it has {' and '.join(others)} text: --split {others[0]}"
    return f"files are named LANG.{split} or LANG.txt"


def _languages_there(split: str, folder: Path) -> list[str]:
    forms = [("", f".{suffix}{end}") for suffix in (split, "txt") for end in _ENDINGS]
    forms += [(f"{split}.", end) for end in (*_TABLES, *_ENDINGS)]
    forms += [(f"{split}/", end) for end in _TABLES]
    found = {
        path.name.removeprefix("" if start.endswith("/") else start).removesuffix(end)
        for below in ("", "*/", "*/*/")
        for start, end in forms
        for path in folder.glob(f"{below}{start}*{end}")
    }
    return sorted(name for name in found if "." not in name)


def _sentences(path: Path) -> list[str]:
    sentences = []
    for number, line in _texts(path):
        text = line.strip("\ufeff \t")
        if not text.strip():
            raise DataError(
                f"{path}:{number}: the line is empty",
                hint="line N must be the same sentence in every file; remove it from all files",
            )
        sentences.append(text)
    return sentences


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered sentences of a file: its lines, or the column ``text`` of its rows."""
    if not path.name.endswith(_TABLES):
        yield from numbered_lines(path)
        return
    for number, row in open_records(path).rows(["text"]):
        text = row.get("text")
        if not isinstance(text, str):
            raise DataError(f"{path}:{number}: 'text' is missing")
        yield number, text


def _check_count(path: Path, count: int, other: Path, expected: int) -> None:
    if count == expected:
        return
    longer, shorter = (path, other) if count > expected else (other, path)
    least = min(count, expected)
    raise DataError(
        f"{longer}:{least + 1}: {longer.name} has {number_of(max(count, expected), 'line')}, but "
        f"{shorter} has "
        f"only {least}",
        hint="line N must be the same sentence in every file",
    )
