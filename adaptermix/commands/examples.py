"""Count the examples that a command reads per language; this reads and checks the data.

All functions raise:
    DataError: A language has no data, or a file is missing or malformed.
    ResourceError: Data cannot be downloaded from the Hub.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from adaptermix.errors import MissingDataError, require_extra
from adaptermix.files.text import Split
from adaptermix.settings.shared import HARNESS

_FIRST = 50  # rows per language that lengths are estimated from


@dataclass(frozen=True)
class _Rows:
    """The number of rows, and the first rows."""

    count: int
    first: tuple[Any, ...]


def _counted(rows: Sequence[Any]) -> _Rows:
    return _Rows(len(rows), tuple(rows[:_FIRST]))


def of_pairs(settings: Any) -> dict[str, int]:
    """Count the parallel sentences of each language pair, up to the limit."""
    return {pair: _pairs_of(settings, pair).count for pair in settings.pairs}


def of_task(settings: Any, splits: Sequence[Split], *, may_lack: bool = False) -> dict[str, int]:
    """Count a task's examples per language in the first split; the other splits are only checked.

    Args:
        settings: The command's settings.
        splits: The splits to read.
        may_lack: Leave out languages without data, as long as one has some.
    """
    from adaptermix.tasks.catalog import make_task

    make_task(settings.task).check_langs(settings.langs, splits, settings.data_dir)
    counts: dict[str, int] = {}
    lacking: list[MissingDataError] = []
    for split in reversed(splits):
        for lang in settings.langs:
            try:
                counts[lang] = _task(settings, lang, split).count
            except MissingDataError as error:
                lacking.append(error)
                if not may_lack:
                    raise
    if lacking and not counts:
        raise lacking[0]
    return counts


def of_harness(settings: Any, *, is_dev: bool = False) -> dict[str, int]:
    """Load the lm-eval tasks, and count their examples or, for a search, their dev examples.

    Raises:
        ConfigError: A task does not exist, has no dev data, or cannot be scored or run here.
        ResourceError: lm-eval is not installed.
    """
    require_extra(HARNESS)
    from adaptermix.evaluation.harness import Harness

    return Harness(settings, is_dev=is_dev).counts


def of_sentences(settings: Any) -> dict[str, int]:
    """Count the sentences of multi-way parallel text by language."""
    texts = _sentences(settings.langs, settings.split, settings.data_dir)
    return {lang: rows.count for lang, rows in texts.items()}


def first_pairs(settings: Any) -> list[Any]:
    """Return the first sentence pairs of each language pair."""
    return [row for pair in settings.pairs for row in _pairs_of(settings, pair).first]


def first_of_task(settings: Any, langs: Sequence[str], split: str) -> tuple[Any, list[Any]]:
    """Return a task, and its first examples in each of these languages."""
    from adaptermix.tasks.catalog import make_task

    rows = [row for lang in langs for row in _task(settings, lang, split).first]
    return make_task(settings.task, settings.prompt, settings.system_prompt), rows


def first_sentences(settings: Any) -> list[str]:
    """Return the first sentences of multi-way parallel text in each language."""
    texts = _sentences(settings.langs, settings.split, settings.data_dir)
    return [text for rows in texts.values() for text in rows.first]


def limited(counts: dict[str, int], limit: int | None) -> dict[str, int]:
    """Return the counts after limiting each language to ``limit`` examples."""
    return {lang: min(count, limit or count) for lang, count in counts.items()}


def _pairs_of(settings: Any, pair: str) -> _Rows:
    place = settings.pairs_dir or settings.data_dir
    return _pairs(pair, place, tuple(settings.pairs_columns.items()), settings.limit)


@cache
def _pairs(
    pair: str, place: Path | None, columns: tuple[tuple[str, str], ...], limit: int | None
) -> _Rows:
    from adaptermix.data.pairs import PairPlace, read_pairs

    return _counted(read_pairs(pair, PairPlace(place, dict(columns)), limit))


def _task(settings: Any, lang: str, split: str) -> _Rows:
    if getattr(settings, "src", None) is not None:
        from adaptermix.tasks.translation import read_translations

        return _counted(read_translations(settings.src, settings.ref, lang))
    return _records(settings.task, lang, split, settings.data_dir)


@cache
def _sentences(langs: tuple[str, ...], split: str, folder: Path) -> dict[str, _Rows]:
    from adaptermix.data.multiway import read_multiway

    return {lang: _counted(texts) for lang, texts in read_multiway(langs, split, folder).items()}


@cache
def _records(task: str, lang: str, split: Any, folder: Path | None) -> _Rows:
    from adaptermix.tasks.catalog import make_task

    return _counted(make_task(task).read(lang, split, folder))
