"""Translation: sentences and their references.

Test sets are plain text with one sentence per line. Training data is in ALMA's format: JSON lines
of ``{"translation": {"de": ..., "en": ...}}``. The Hub has both as parquet.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adaptermix.data.alma import read_alma
from adaptermix.data.chats import Message
from adaptermix.data.languages import (
    LANGUAGE_NAMES,
    find_language,
    language_code,
    plain_code,
    split_pair,
    target_of,
)
from adaptermix.data.sampling import hold_out
from adaptermix.errors import DataError, MissingDataError
from adaptermix.files.text import Split, find_file, has_file, numbered_lines
from adaptermix.settings.shared import ScorerSettings
from adaptermix.tables import number_of
from adaptermix.tasks.metrics.metric import Metric, Outcome, chosen
from adaptermix.tasks.metrics.text import text_metrics
from adaptermix.tasks.task import Task, chat_of, text_outcome

_DEV_ROWS = 1000  # held out of training data that has no dev split


@dataclass(frozen=True)
class TranslationExample:
    """A sentence with its references; ``lang`` is the pair, such as ``en-de``."""

    id: str
    lang: str
    source: str
    references: tuple[str, ...]

    @property
    def utterance(self) -> str:
        """The sentence to translate."""
        return self.source


def read_translations(
    source: Path | None, references: Sequence[Path], pair: str
) -> list[TranslationExample]:
    """Read sentences and their references, line by line.

    Args:
        source: Text file of the sentences; if None, the sentences are empty.
        references: One text file per set of references, at least one.
        pair: Language pair of the examples.

    Raises:
        DataError: A file is missing, the files differ in length, or a reference is empty.
    """
    files = [path for path in (source, *references) if path is not None]
    columns = [[line for _, line in numbered_lines(path)] for path in files]
    for path, lines in zip(files, columns, strict=True):
        if len(lines) != len(columns[0]):
            raise DataError(
                f"{path}: {number_of(len(lines), 'line')}, but {files[0]} has {len(columns[0])}"
            )
    targets = columns[len(files) - len(references) :]
    for path, lines in zip(references, targets, strict=True):
        empty = next((at for at, line in enumerate(lines, start=1) if not line.strip()), None)
        if empty is not None:
            raise DataError(
                f"{path}:{empty}: the reference is empty",
                hint="add the translation, or remove the line from all files",
            )
    sources = columns[0] if source is not None else [""] * len(targets[0])
    rows = zip(sources, zip(*targets, strict=True), strict=True)
    return [
        TranslationExample(str(number), pair, text, texts)
        for number, (text, texts) in enumerate(rows)
    ]


def read_wmt(pair: str, split: Split, data_dir: Path | None) -> list[TranslationExample]:
    """Read one direction: a test set of WMT, or ALMA's training data.

    The folder and up to two levels of subfolders are searched. Files of the test split:
    ``en-de.src`` and ``en-de.ref`` (or WMT's own names, ``NAME.en-de.src.en`` and
    ``NAME.en-de.ref.refA.de``), ``en-de.test.parquet`` or ``en-de/test-*.parquet`` (WMT23-Test),
    and ``en-de.test.json`` (ALMA's copy of WMT 22). Files of the other splits, with the languages
    in either order: ``de-en.train.json`` and ``de-en.valid.json``, or ``de-en/train-*.parquet``
    and ``de-en/validation-*.parquet``. Text may be gzipped. Without a dev file, dev rows are held
    out of the training file, always the same ones.

    Raises:
        DataError: The pair has an unknown language, no folder is given, or files are missing or
            malformed.
    """
    source, target = split_pair(pair)
    language_code(source), language_code(target)
    if data_dir is None:
        raise DataError(
            "translation data is not downloaded from the Hub",
            hint="use --data-dir; adaptermix data get wmt23 and adaptermix data get alma "
            "download the paper's data",
        )
    stored = stored_pair(pair, split, data_dir)
    if stored != pair:
        return [replace(row, lang=pair) for row in read_wmt(stored, split, data_dir)]
    if split == "test":
        return _read_test(pair, source, target, data_dir)
    names = [f"{source}-{target}", f"{target}-{source}"]
    dev = _find_optional(data_dir, _alma_names(names, "valid"))
    if split == "dev" and dev:
        return _read_alma(dev, source, target)
    what = f"{pair} training data"
    train_names = _alma_names(names, "train")
    train = find_language(data_dir, train_names, pair, what, _NAMED_TRAINING)
    rows = _read_alma(train, source, target)
    if dev:
        return rows
    kept, held = hold_out(rows, _DEV_ROWS, random.Random(0))
    return held if split == "dev" else kept


def stored_pair(pair: str, split: Split, folder: Path) -> str:
    """Return the pair in the names of its files: by plain codes if only these have any."""
    plain = "-".join(map(plain_code, split_pair(pair)))
    has_own, has_plain = (has_file(folder, _pair_names(name, split)) for name in (pair, plain))
    return plain if has_plain and not has_own else pair


def _pair_names(pair: str, split: Split) -> list[str]:
    source, target = split_pair(pair)
    if split == "test":
        return [*_test_names(source, target), *_alma_names([pair], "test")]
    return _alma_names([pair, f"{target}-{source}"], "train")


# File names that contain the language pair.
_NAMED_TRAINING = r"(\w+-\w+)\.train\.json(?:\.gz)?"
_NAMED_TEST = r"(?:.*\.)?(\w+-\w+)\.(?:src|src\.\w+)(?:\.gz)?"


def _test_names(source: str, target: str) -> list[str]:
    pair = f"{source}-{target}"
    return _gzipped((f"{pair}.src", f"*.{pair}.src.{source}"))


def _read_test(pair: str, source: str, target: str, folder: Path) -> list[TranslationExample]:
    """Read a test set whose file names contain the pair."""
    texts = _test_names(source, target)
    if not has_file(folder, texts):
        path = _find_optional(folder, _alma_names([pair], "test"))
        if path is not None:
            return _read_references(path, source, target)
    path = find_language(folder, texts, pair, f"{pair} source sentences", _NAMED_TEST)
    patterns = _gzipped((f"{pair}.ref", f"*.{pair}.ref.refA.{target}", f"*.{pair}.ref.{target}"))
    return read_translations(path, [find_file(folder, patterns, f"{pair} references")], pair)


def _alma_names(pairs: Sequence[str], part: str) -> list[str]:
    """Return the names of a split's file, as in ALMA's repository and as on the Hub."""
    on_hub = "validation" if part == "valid" else part
    ends = [f".{part}.json", f".{part}.json.gz", f".{part}.parquet"]
    ends += [f"/{on_hub}-*.parquet", f"/{on_hub}/*.parquet"]
    return [pair + end for pair in pairs for end in ends]


def _gzipped(names: Any) -> list[str]:
    return [name + end for name in names for end in ("", ".gz")]


def _find_optional(folder: Path, patterns: list[str]) -> Path | None:
    return find_file(folder, patterns, "dev data") if has_file(folder, patterns) else None


def _read_alma(path: Path, source: str, target: str) -> list[TranslationExample]:
    """Read training data, and skip rows with an empty side."""
    pair = f"{source}-{target}"
    rows = (
        (str(number), *(side.strip() for side in sides))
        for number, sides in read_alma(path, source, target)
    )
    examples = [
        TranslationExample(number, pair, text, (reference,))
        for number, text, reference in rows
        if text and reference
    ]
    if not examples:
        raise MissingDataError(f"{path}: no {pair} sentence pairs")
    return examples


def _read_references(path: Path, source: str, target: str) -> list[TranslationExample]:
    """Read a test set with sentences and references in one file."""
    pair = f"{source}-{target}"
    examples = []
    for number, (text, reference) in read_alma(path, source, target):
        if not reference.strip():
            raise DataError(
                f"{path}:{number}: the reference is empty",
                hint="add the translation, or remove the row",
            )
        examples.append(TranslationExample(str(number - 1), pair, text, (reference,)))
    if not examples:
        raise DataError(f"{path}: no {pair} sentence pairs")
    return examples


@dataclass(frozen=True)
class Translation(Task):
    """Translation, scored by BLEU, chrF and COMET; a language is a pair such as ``en-de``.

    Attributes:
        system_prompt: Replaces the paper's system prompt, which names both languages.
    """

    system_prompt: str | None = None
    options: ScorerSettings = ScorerSettings()
    name: str = "wmt23"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """BLEU and chrF, or the requested metrics."""
        names = self.options.metrics or ("bleu", "chrf")
        return chosen(text_metrics(self.options), names, self.name)

    def read(self, lang: str, split: Split, data_dir: Path | None) -> list[TranslationExample]:
        """Return the examples of one direction, in file order; of the given files, if any."""
        if self.options.src is None:
            return read_wmt(lang, split, data_dir)
        for code in split_pair(lang):
            language_code(code)
        return read_translations(self.options.src, self.options.ref, lang)

    def stored_as(self, lang: str, split: Split, data_dir: Path | None) -> str:
        """Return the pair in the names of its files."""
        if data_dir is None or self.options.src is not None:
            return lang
        return stored_pair(lang, split, data_dir)

    def messages(self, example: TranslationExample) -> list[Message]:
        """Return the system prompt, by default the paper's, and the sentence."""
        if self.system_prompt is not None:
            return chat_of(self.system_prompt, example.source)
        source, target = (LANGUAGE_NAMES[language_code(code)] for code in split_pair(example.lang))
        return chat_of(
            f"Translate the following sentences from {source} to {target}.", example.source
        )

    def answer(self, example: TranslationExample) -> str:
        """Return the first reference."""
        return example.references[0]

    def outcome(self, example: TranslationExample, output: str) -> Outcome:
        """Return the output as it is; an empty one counts as malformed."""
        return text_outcome(
            output, example.references, example.source, lang=target_of(example.lang)
        )
