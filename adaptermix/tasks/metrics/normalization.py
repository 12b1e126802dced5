"""Answers that differ from the expected ones only by Unicode normalization.

Metrics compare values as they are: an ``e`` with a combining accent (NFD) is not ``é`` (NFC).
"""

import unicodedata
from collections.abc import Mapping, Sequence

from adaptermix.tables import number_of
from adaptermix.tasks.metrics.metric import Outcome


def notes_on_normalization(outcomes: Mapping[str, Sequence[Outcome]]) -> list[str]:
    """Return notes on answers, by the name of their system, that normalization would change."""
    counts = {name: count_denormalized(given) for name, given in outcomes.items()}
    return [note_on_denormalized(count, f" of {name}") for name, count in counts.items() if count]


def note_on_denormalized(count: int, whose: str) -> str:
    """Return the note on a number of such answers."""
    return (
        f"{number_of(count, 'answer')}{whose} would have more correct values after Unicode "
        "normalization (NFC): accents are written as one character on one side, and as two on the "
        "other"
    )


def count_denormalized(outcomes: Sequence[Outcome]) -> int:
    """Return how many answers have a value that is wrong only by its normalization."""
    return sum(map(_is_denormalized, outcomes))


def _is_denormalized(outcome: Outcome) -> bool:
    expected = _values(outcome.expected)
    wrong = _composed(_values(outcome.predicted) - expected)
    return not wrong.isdisjoint(_composed(expected))


def _composed(values: set[str]) -> set[str]:
    return {unicodedata.normalize("NFC", value) for value in values}


def _values(side: object) -> set[str]:
    """Return slots, entities, tags, or texts as texts."""
    values = side if isinstance(side, list | tuple) else [side]
    return {" ".join(str(value).split()) for value in values}
