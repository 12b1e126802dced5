"""Composed and decomposed accents: in Latin, in Devanagari, and in every kind of answer."""

import pytest

from adaptermix.tasks.entities import Entity
from adaptermix.tasks.metrics.metric import Outcome
from adaptermix.tasks.metrics.normalization import count_denormalized, notes_on_normalization
from adaptermix.tasks.slots import Slot


@pytest.mark.parametrize(
    ("one", "other"), [("caf\u00e9", "cafe\u0301"), ("\u0915\u093c", "\u0958")], ids=["é", "क़"]
)
@pytest.mark.parametrize(
    "as_outcome",
    [
        lambda given, gold: Outcome([Slot("a", "b"), Slot("a", given)], [Slot("a", gold)]),
        lambda given, gold: Outcome([Entity("a", given, 1, 2)], [Entity("a", gold, 1, 2)]),
        lambda given, gold: Outcome(f"a  {given}", ["b", f"a {gold}"]),
    ],
    ids=["slots", "entities", "text"],
)
def test_values_that_differ_only_by_normalization_are_counted(as_outcome, one, other):
    counted = [as_outcome(one, other), as_outcome(other, one)]
    assert count_denormalized(counted) == 2
    alike = [as_outcome(one, one), as_outcome(other, other), as_outcome("cafe", one)]
    assert count_denormalized(alike) == 0
    notes = notes_on_normalization({"base": alike, "task": [*counted, *alike]})
    assert [note[:18] for note in notes] == ["2 answers of task "]
