"""Scores with the signature that says how to compute them again."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from adaptermix import __version__
from adaptermix.tagging import Slot


@dataclass(frozen=True)
class Score:
    """A score on a 0-1 scale with the counts behind it and its signature."""

    value: float
    correct: int
    predicted: int
    expected: int
    signature: str


SLOT_F1_SIGNATURE = f"slot_f1|avg:micro|match:type+value|case:fold|space:norm|version:{__version__}"


def slot_statistics(
    predicted: Sequence[Iterable[Slot]], expected: Sequence[Iterable[Slot]]
) -> Float[np.ndarray, "examples 3"]:
    """Count correct, predicted and expected slots, one row an example.

    A predicted slot is correct when its type and value equal those of an expected slot of the
    same example that no other predicted slot has taken; so a value that is not in the utterance
    and an unknown type are false positives, and gold answers score 1 in every language.
    Values are compared case-folded with white space normalized.
    """
    rows = []
    for guesses, golds in zip(predicted, expected, strict=True):
        found, wanted = _counted(guesses), _counted(golds)
        rows.append(((found & wanted).total(), found.total(), wanted.total()))
    return np.array(rows, dtype=float).reshape(-1, 3)


def f1_value(sums: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch"]:
    """Return 2 correct / (predicted + expected) from sums of counts; 1 where both are 0."""
    total = sums[..., 1] + sums[..., 2]
    return np.where(total > 0, 2 * sums[..., 0] / np.maximum(total, 1), 1.0)


def slot_f1(predicted: Sequence[Iterable[Slot]], expected: Sequence[Iterable[Slot]]) -> Score:
    """Micro F1 over slots, over all examples together; see ``slot_statistics``."""
    sums = slot_statistics(predicted, expected).sum(axis=0)
    correct, n_predicted, n_expected = (int(count) for count in sums)
    return Score(float(f1_value(sums)), correct, n_predicted, n_expected, SLOT_F1_SIGNATURE)


def _counted(slots: Iterable[Slot]) -> Counter[tuple[str, str]]:
    return Counter((slot.type, " ".join(slot.value.casefold().split())) for slot in slots)
