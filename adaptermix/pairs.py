"""Parallel sentences that are fit to align, and why others are not."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from adaptermix.files.text import FLORES_CODES, ParallelPair, read_pair_rows, split_pair

# Words of the names that Unicode gives to letters of a script, by ISO 15924 code.
_SCRIPTS = {
    "Arab": {"ARABIC"},
    "Armn": {"ARMENIAN"},
    "Beng": {"BENGALI"},
    "Cyrl": {"CYRILLIC"},
    "Deva": {"DEVANAGARI"},
    "Ethi": {"ETHIOPIC"},
    "Geor": {"GEORGIAN"},
    "Grek": {"GREEK"},
    "Hang": {"HANGUL", "CJK"},
    "Hans": {"CJK"},
    "Hebr": {"HEBREW"},
    "Jpan": {"CJK", "HIRAGANA", "KATAKANA"},
    "Khmr": {"KHMER"},
    "Knda": {"KANNADA"},
    "Latn": {"LATIN"},
    "Thai": {"THAI"},
}
_ALSO = {"sr": {"LATIN"}}  # written in two scripts
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
        data_dir: Where they are; the hub's copy of Tatoeba without it.
        several_sentences: Keep pairs with several sentences on a side.
        check_script: Drop sides that are mostly in a script not of their language.

    Raises:
        DataError: Not a pair, no or several such files, a malformed line.
        ResourceError: The hub is needed and cannot be reached.
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


def is_in_wrong_script(text: str, lang: str) -> bool:
    """Whether most letters are not of the language's script; False for languages not known."""
    code = FLORES_CODES.get(lang, "").rpartition("_")[2]
    if code not in _SCRIPTS:
        return False
    expected = _SCRIPTS[code] | _ALSO.get(lang, set())
    letters = [letter for letter in text if letter.isalpha()]
    return 2 * sum(_script(letter) in expected for letter in letters) < len(letters)


@cache
def _script(letter: str) -> str:
    words = re.split("[ -]", unicodedata.name(letter, "UNKNOWN"))
    return words[1] if words[0] in ("FULLWIDTH", "HALFWIDTH") else words[0]
