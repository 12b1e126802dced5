"""Metrics: sums of statistics of examples, the score of such a sum, and how to compute it again.

Every metric counts each example by itself (``statistics``) and scores a sum of these rows
(``value``), so that the score of any resample of the examples costs one sum.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from adaptermix.tasks.entities import Entity
from adaptermix.tasks.metrics.metric import Outcome, Statistics
from adaptermix.tasks.slots import Slot
from adaptermix.version import __version__


@dataclass(frozen=True)
class OverlapF1:
    """Micro F1 over items; each predicted item matches one expected item of its example at most.

    Attributes:
        name: Name of the metric.
        rule: The part of the signature that says when two items are the same.
        key: What of an item is compared.
    """

    name: str
    rule: str
    key: Callable[[Any], Hashable]
    counted = ("correct", "predicted", "expected")

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Count correct, predicted and expected items."""
        predicted = ([self.key(item) for item in o.predicted] for o in outcomes)
        expected = ([self.key(item) for item in o.expected] for o in outcomes)
        return overlap_statistics(predicted, expected)

    def value(self, sums: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch"]:
        """Return 2 correct / (predicted + expected); 1 where both are 0."""
        return f1_value(sums)

    def signature(self, outcomes: Sequence[Outcome]) -> str:
        """Say what is compared, and how."""
        return f"{self.name}|avg:micro|{self.rule}|version:{__version__}"


def slot_key(slot: Slot) -> tuple[str, str]:
    """Return a slot's type and its value, case-folded with white space normalized."""
    return slot.type, " ".join(slot.value.casefold().split())


def entity_text_key(entity: Entity) -> tuple[str, str]:
    """Return an entity's type and its text with white space normalized."""
    return entity.type, " ".join(entity.text.split())


def entity_offset_key(entity: Entity) -> tuple[str, int | None, int | None]:
    """Return an entity's type and where it starts and ends."""
    return entity.type, entity.start, entity.end


SLOT_F1 = OverlapF1("slot_f1", "match:type+value|repeats:counted|case:fold|space:norm", slot_key)
ENTITY_F1 = {
    "text": OverlapF1(
        "entity_f1", "match:type+text|repeats:counted|case:mixed|space:norm", entity_text_key
    ),
    "offsets": OverlapF1("entity_f1", "match:type+start+end|repeats:counted", entity_offset_key),
}


def overlap_statistics(
    predicted: Iterable[Iterable[Hashable]], expected: Iterable[Iterable[Hashable]]
) -> Float[np.ndarray, "examples 3"]:
    """Count correct, predicted and expected items, one row an example.

    A predicted item is correct when it equals an expected item of the same example that no other
    predicted item has taken; so what is not there, or is said too often, is a false positive.
    """
    rows = []
    for guesses, golds in zip(predicted, expected, strict=True):
        found, wanted = Counter(guesses), Counter(golds)
        rows.append(((found & wanted).total(), found.total(), wanted.total()))
    return np.array(rows, dtype=float).reshape(-1, 3)


def f1_value(sums: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch"]:
    """Return 2 correct / (predicted + expected) from sums of counts; 1 where both are 0."""
    total = sums[..., 1] + sums[..., 2]
    return np.where(total > 0, 2 * sums[..., 0] / np.maximum(total, 1), 1.0)


@dataclass(frozen=True)
class SpanF1:
    """Micro F1 over the spans of BIO tags, as seqeval 1.2.2 computes it: 0 where none is right."""

    name: str = "slot_f1"
    rule: str = "scorer:paper|spans:bio"
    counted = ("correct", "predicted", "expected")

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Count correct, predicted and expected spans."""
        return span_statistics([o.predicted for o in outcomes], [o.expected for o in outcomes])

    def value(self, sums: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch"]:
        """Return the harmonic mean of precision and recall, rounded in seqeval's order."""
        correct, predicted, expected = (sums[..., column] for column in range(3))
        precision = correct / np.maximum(predicted, 1)
        recall = correct / np.maximum(expected, 1)
        both = precision + recall
        return np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1), 0.0)

    def signature(self, outcomes: Sequence[Outcome]) -> str:
        """Say what is compared, and how."""
        return f"{self.name}|avg:micro|{self.rule}|version:{__version__}"


def span_statistics(
    predicted: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]
) -> Float[np.ndarray, "examples 3"]:
    """Count correct, predicted and expected spans of BIO tags, one row a sentence.

    A span is a ``B-`` tag and the ``I-`` tags of its type that follow; an ``I-`` tag that
    continues nothing begins a span, as in conlleval and seqeval.

    Args:
        predicted: The tags of every sentence.
        expected: The same, of the same lengths.

    Raises:
        ValueError: Lengths differ.
    """
    if [*map(len, predicted)] != [*map(len, expected)]:
        raise ValueError("predicted and expected tags differ in length")
    return overlap_statistics(map(_spans, predicted), map(_spans, expected))


def _spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return type, start and end of every span."""
    spans = []
    start, type_ = 0, None
    for at, tag in enumerate((*tags, "O")):
        if type_ is not None and tag != f"I-{type_}":
            spans.append((type_, start, at))
            type_ = None
        if type_ is None and tag != "O":
            start, type_ = at, tag[2:]
    return spans
