"""Whether one answer is correct, by the same rules as the metrics."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from adaptermix.tasks.entities import Entity
from adaptermix.tasks.metrics.f1 import entity_offset_key, entity_text_key, slot_key
from adaptermix.tasks.slots import Slot


def is_one_of(text: str, references: Iterable[Any]) -> bool:
    """Whether a text equals one of the references after whitespace normalization."""
    return " ".join(text.split()) in {" ".join(str(r).split()) for r in references}


def is_right(predicted: Any, expected: Any, *, by_offsets: bool = False) -> bool:
    """Whether a parsed answer matches the expected one exactly.

    Args:
        predicted: A text, or a list of tags, or of slots or entities as stored in records.
        expected: For a text, the references, one of which it must equal; otherwise a list.
        by_offsets: Compare entities by type and offsets instead of type and text.
    """
    if isinstance(predicted, str):
        return is_one_of(predicted, expected if isinstance(expected, list) else [expected])
    if not isinstance(predicted, list) or not isinstance(expected, list):
        return False
    if any(isinstance(item, str) for item in (*predicted, *expected)):  # tags, whose order counts
        return predicted == expected
    one, other = (
        Counter(_key(item, by_offsets) for item in side) for side in (predicted, expected)
    )
    return one == other


def _key(item: Any, by_offsets: bool) -> tuple[Any, ...]:
    """Return the compared fields of a slot or entity; accepts damaged records."""
    if not isinstance(item, dict):
        return (repr(item),)
    fields = {name: str(value) for name, value in item.items() if value is not None}
    if "value" in fields:
        return slot_key(Slot(fields.get("type", ""), fields["value"]))
    ends: list[Any] = [fields.get("start"), fields.get("end")]
    entity = Entity(fields.get("type", ""), fields.get("text", ""), *ends)
    return entity_offset_key(entity) if by_offsets else entity_text_key(entity)
