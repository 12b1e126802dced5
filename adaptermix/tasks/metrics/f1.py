"""Micro F1 over items and over spans of BIO tags.

Both metrics count each example separately (``statistics``) and score a sum of these rows
(``value``), so that scoring a resample of the examples costs one sum.
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
    """Micro F1 over items; each predicted item matches at most one expected item of its example.

    Attributes:
        name: Name of the metric.
        rule: The part of the signature that defines when two items are equal.
        key: Returns the part of an item that is compared.
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
        """Return 2 correct / (predicted + expected), or 1 if both are 0."""
        return f1_value(sums)

    def signature(self, outcomes: Sequence[Outcome]) -> str:
        """Return what is compared, and how."""
        return f"{self.name}|avg:micro|{self.rule}|version:{__version__}"


def slot_key(slot: Slot) -> tuple[str, str]:
    """Return a slot's type and its value, case-folded and with normalized whitespace."""
    return slot.type, " ".join(slot.value.casefold().split())


def entity_text_key(entity: Entity) -> tuple[str, str]:
    """Return an entity's type and its text with normalized whitespace."""
    return entity.type, " ".join(entity.text.split())


def entity_offset_key(entity: Entity) -> tuple[Any, ...]:
    """Return an entity's type, start and end. Without offsets, the key equals no other."""
    if entity.start is None or entity.end is None:
        return entity.type, object()
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
    """Count correct, predicted and expected items, one row per example.

    A predicted item is correct if it equals an expected item of the same example that no other
    predicted item has matched. Unexpected items and surplus repetitions are false positives.
    """
    rows = []
    for guesses, golds in zip(predicted, expected, strict=True):
        found, wanted = Counter(guesses), Counter(golds)
        rows.append(((found & wanted).total(), found.total(), wanted.total()))
    return np.array(rows, dtype=float).reshape(-1, 3)


def f1_value(sums: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch"]:
    """Return 2 correct / (predicted + expected) from summed counts, or 1 if both are 0."""
    total = sums[..., 1] + sums[..., 2]
    return np.where(total > 0, 2 * sums[..., 0] / np.maximum(total, 1), 1.0)


@dataclass(frozen=True)
class SpanF1:
    """Micro F1 over spans of BIO tags, as seqeval 1.2.2 computes it: 0 if no span is correct."""

    name: str = "slot_f1"
    rule: str = "scorer:paper|spans:bio"
    counted = ("correct", "predicted", "expected")

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Count correct, predicted and expected spans."""
        return span_statistics([o.predicted for o in outcomes], [o.expected for o in outcomes])

    def value(self, sums: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch"]:
        """Return the harmonic mean of precision and recall, with seqeval's order of operations."""
        correct, predicted, expected = (sums[..., column] for column in range(3))
        precision = correct / np.maximum(predicted, 1)
        recall = correct / np.maximum(expected, 1)
        both = precision + recall
        return np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1), 0.0)

    def signature(self, outcomes: Sequence[Outcome]) -> str:
        """Return what is compared, and how."""
        return f"{self.name}|avg:micro|{self.rule}|version:{__version__}"


def span_statistics(
    predicted: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]
) -> Float[np.ndarray, "examples 3"]:
    """Count correct, predicted and expected spans of BIO tags, one row per sentence.

    A span is a ``B-`` tag with the ``I-`` tags of its type that follow. An ``I-`` tag that does
    not continue a span starts one, as in conlleval and seqeval.

    Args:
        predicted: Predicted tags of every sentence.
        expected: Expected tags of every sentence, of the same lengths.

    Raises:
        ValueError: The lengths differ.
    """
    if [*map(len, predicted)] != [*map(len, expected)]:
        raise ValueError("predicted and expected tags differ in length")
    return overlap_statistics(map(_spans, predicted), map(_spans, expected))


def _spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return the type, start and end of every span."""
    spans = []
    start, type_ = 0, None
    for at, tag in enumerate((*tags, "O")):
        if type_ is not None and tag != f"I-{type_}":
            spans.append((type_, start, at))
            type_ = None
        if type_ is None and tag != "O":
            start, type_ = at, tag[2:]
    return spans
