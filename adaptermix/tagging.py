"""Slot annotations of MASSIVE: marked-up text, slots, and the answers a model writes.

annotated   wake me up at [time : five am] [date : this week]
slots       (time, five am), (date, this week)
answer      time: five am; date: this week
"""

import re
from itertools import zip_longest
from typing import NamedTuple

NO_SLOTS = "None"

_MARKED = re.compile(r"\[\s*([^\[\]:]+?)\s*:\s*([^\[\]]*?)\s*\]")
_ANSWER_PART = re.compile(r"(?:^|;)\s*(\w+)\s*:\s*")


class Slot(NamedTuple):
    """A typed piece of an utterance."""

    type: str
    value: str


class Answer(NamedTuple):
    """The slots read out of a model's answer, and how many pieces of it were unreadable."""

    slots: list[Slot]
    malformed: int


def slots_of(annotated: str) -> list[Slot]:
    """Return the marked slots, in the order of the utterance."""
    return [Slot(type_, value) for type_, value in _MARKED.findall(annotated)]


def without_marks(annotated: str) -> str:
    """Return the utterance that an annotated one marks up."""
    return _MARKED.sub(lambda match: match[2], annotated)


def render_answer(slots: list[Slot]) -> str:
    """Write slots as the answer a model is trained to give; ``None`` where there are none."""
    return "; ".join(f"{slot.type}: {slot.value}" for slot in slots) or NO_SLOTS


def parse_answer(text: str) -> Answer:
    """Read a model's answer; any text is accepted and nothing is raised.

    A part starts at the beginning or after a semicolon with ``type:``, so that a value may hold
    semicolons and colons of its own. What stands before the first part, and a part without a
    value, is counted as malformed.
    """
    text = text.strip()
    if text.rstrip(".").casefold() == NO_SLOTS.casefold():
        return Answer([], 0)
    starts = list(_ANSWER_PART.finditer(text))
    leading = text[: starts[0].start()] if starts else text
    malformed = int(bool(leading.strip()) or not text)
    slots = []
    for part, following in zip_longest(starts, starts[1:]):
        value = text[part.end() : following.start() if following else None].strip()
        if value:
            slots.append(Slot(part[1], value))
        else:
            malformed += 1
    return Answer(slots, malformed)
