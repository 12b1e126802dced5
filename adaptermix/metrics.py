"""Scores with the signature that says how to compute them again."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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


def slot_f1(predicted: Sequence[Iterable[Slot]], expected: Sequence[Iterable[Slot]]) -> Score:
    """Micro F1 over slots: 2 correct / (predicted + expected), over all examples together.

    A predicted slot is correct when its type and value equal those of an expected slot of the
    same example that no other predicted slot has taken; so a value that is not in the utterance
    and an unknown type are false positives, and gold answers score 1 in every language.
    Values are compared case-folded with white space normalized. Without any slot on either side
    the score is 1.
    """
    correct = n_predicted = n_expected = 0
    for guesses, golds in zip(predicted, expected, strict=True):
        found, wanted = _counted(guesses), _counted(golds)
        correct += (found & wanted).total()
        n_predicted += found.total()
        n_expected += wanted.total()
    total = n_predicted + n_expected
    value = 2 * correct / total if total else 1.0
    return Score(value, correct, n_predicted, n_expected, SLOT_F1_SIGNATURE)


def _counted(slots: Iterable[Slot]) -> Counter[tuple[str, str]]:
    return Counter((slot.type, " ".join(slot.value.casefold().split())) for slot in slots)
