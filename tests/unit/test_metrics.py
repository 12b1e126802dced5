import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.metrics import SLOT_F1, Outcome, score
from adaptermix.tagging import Slot


def slot_f1(predicted, expected):
    return score(SLOT_F1, list(map(Outcome, predicted, expected)))


SLOT = st.builds(Slot, st.sampled_from(["time", "date"]), st.sampled_from(["five", "Five", "six"]))
EXAMPLES = st.lists(st.tuples(st.lists(SLOT, max_size=4), st.lists(SLOT, max_size=4)), max_size=5)


def plain_f1(predicted, expected):
    """Cross off expected slots one by one."""
    correct = 0
    for guesses, golds in zip(predicted, expected, strict=True):
        left = [(slot.type, slot.value.lower()) for slot in golds]
        for guess in guesses:
            if (guess.type, guess.value.lower()) in left:
                left.remove((guess.type, guess.value.lower()))
                correct += 1
    total = sum(map(len, predicted)) + sum(map(len, expected))
    return 2 * correct / total if total else 1.0


@given(EXAMPLES)
def test_f1_equals_crossing_off_slots(examples):
    predicted, expected = [p for p, _ in examples], [e for _, e in examples]
    assert slot_f1(predicted, expected).value == pytest.approx(plain_f1(predicted, expected))


@given(EXAMPLES)
def test_gold_slots_score_one(examples):
    expected = [e for _, e in examples]
    assert slot_f1(expected, expected).value == 1.0


def test_counts_and_a_value_worked_out_by_hand():
    # Two of three predictions are right, two of four expected slots are found: F1 = 4 / 7.
    predicted = [[Slot("time", "Five  AM"), Slot("date", "today")], [Slot("time", "six")]]
    expected = [[Slot("time", "five am"), Slot("date", "monday")], [Slot("time", "six"), *[]]]
    expected[1].append(Slot("person", "ann"))
    result = slot_f1(predicted, expected)
    assert result.counts == {"correct": 2, "predicted": 3, "expected": 4}
    assert result.value == pytest.approx(4 / 7)


def test_a_value_said_twice_counts_once_where_it_is_expected_once():
    five = Slot("time", "five")
    assert slot_f1([[five, five]], [[five]]).value == pytest.approx(2 / 3)


def test_the_signature_says_how_slots_are_compared():
    assert "match:type+value" in slot_f1([], []).signature
