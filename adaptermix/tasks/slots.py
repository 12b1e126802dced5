"""MASSIVE's slot annotations: annotated text, slots, and model answers.

annotated   wake me up at [time : five am] [date : this week]
slots       (time, five am), (date, this week)
answer      time: five am; date: this week
"""

import re
import sys
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import regex

NO_SLOTS = "None"
OUTSIDE = "Other"
# The locales that are scored by character, as in MASSIVE's own scripts.
SPLIT_BY_CHARACTER = ("ja-JP", "zh-CN", "zh-TW")
_MARKED = re.compile(r"\[\s*([^\[\]:]+?)\s*:\s*([^\[\]]*?)\s*\]")
_ITEM = r"(?:(?:\d{1,3}[.)]|[-*])[^\S\n]+)?"  # the marker of a list item
# Words, in any script. Other characters are part of one only inside it: toloc.city_name, B/LOC.
_TYPE = r"[\w\p{N}](?:[\w\p{N} -]|(?<!\s)[^\w\s:;,](?=[\w\p{N}])){0,40}?"
_ANSWER_PART = regex.compile(rf"(?:^|[;\n])[^\S\n]*{_ITEM}({_TYPE})\s*:\s*")
_HIDDEN_PART = re.compile(r"[;\n]\s*([^\s:;][^:;\n]*?)\s*:\s")


class Slot(NamedTuple):
    """A typed span of an utterance."""

    type: str
    value: str


class Answer(NamedTuple):
    """The slots parsed from a model's answer, and the number of malformed pieces."""

    slots: list[Slot]
    malformed: int


def slots_of(annotated: str) -> list[Slot]:
    """Return the annotated slots, in the order of the utterance."""
    return [Slot(type_, value) for type_, value in _MARKED.findall(annotated)]


def without_marks(annotated: str) -> str:
    """Return the plain utterance of an annotated one."""
    return _MARKED.sub(lambda match: match[2], annotated)


def render_answer(slots: list[Slot]) -> str:
    """Format slots as the answer that a model is trained to give, or ``None`` without slots."""
    return "; ".join(f"{slot.type}: {slot.value}" for slot in slots) or NO_SLOTS


def parse_answer(text: str) -> Answer:
    """Parse a model's answer. Any text is accepted, and no error is raised.

    A part starts with ``type:`` at the beginning, after a semicolon or on a new line, so a value
    may contain semicolons and colons. Any few words count as a type, with signs inside a word, so
    an unknown type is one wrong slot and does not affect the others. Text before the first part,
    and a part without a value, count as malformed. A part may start with a list number, because
    the zero-shot prompt shows answers in that form, or with a dash or star.
    """
    text = text.strip()
    if re.sub(rf"\A{_ITEM}", "", text).rstrip(".").casefold() == NO_SLOTS.casefold():
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


def swallowed_type(slots: Sequence[Slot]) -> str | None:
    """Return what looks like a type inside a value, of a part that ``parse_answer`` cannot tell."""
    found = (_HIDDEN_PART.search(slot.value) for slot in slots)
    return next((match[1] for match in found if match), None)


class Labelled(NamedTuple):
    """An utterance as the paper's scorer sees it: tokens, and the slot type of each or ``Other``.

    The two lists may differ in length, as in that scorer.
    """

    tokens: list[str]
    labels: list[str]


def label_gold(utterance: str, annotated: str, locale: str) -> Labelled:
    """Label the tokens of an utterance by its annotation, as MASSIVE's own scripts do.

    This reproduces their faults: in a locale that is split by character, an ASCII chunk stays one
    token, and a closing bracket at its end does not end the slot.
    """
    if locale in SPLIT_BY_CHARACTER:
        return _label_characters(annotated)
    chunks = annotated.split()
    labels: list[str] = []
    label, at = OUTSIDE, 0
    while at < len(chunks):
        if chunks[at].startswith("["):
            label = chunks[at].lstrip("[")
            at += 2  # skips the colon too
            continue
        labels.append(label)
        if chunks[at].endswith("]"):
            label = OUTSIDE
        at += 1
    return Labelled(utterance.split(), labels)


def _label_characters(annotated: str) -> Labelled:
    tokens: list[str] = []
    labels: list[str] = []
    label, is_colon_next = OUTSIDE, False
    for chunk in annotated.split():
        if chunk.startswith("["):
            label, is_colon_next = chunk.lstrip("["), True
        elif chunk == ":" and is_colon_next:
            is_colon_next = False
        elif chunk.isascii():
            tokens.append(chunk.rstrip("]"))
            labels.append(label)
        else:
            for character in chunk:
                if character == "]":
                    label = OUTSIDE
                else:
                    tokens.append(character)
                    labels.append(label)
    return Labelled(tokens, labels)


def label_answer(output: str, gold: Labelled, locale: str) -> tuple[list[str], int]:
    """Label the tokens of an utterance by a model's answer, as the authors' scorer does.

    Every occurrence of a value gets its label, whatever the type; later parts overwrite earlier
    ones. A value that does not occur in the utterance has no effect. A part that is not
    ``type: value`` with one ``: `` is skipped. A value of whitespace only, at which the authors'
    scorer stops, is skipped too.

    Returns:
        As many labels as there are gold labels, and the number of skipped parts.
    """
    labels = [OUTSIDE] * len(gold.labels)
    malformed = 0
    text = output.strip()
    for part in [] if text.lower() == "none" else text.split("; "):
        pieces = part.split(": ")
        value = pieces[1] if len(pieces) == 2 else ""
        pattern = list(value) if locale in SPLIT_BY_CHARACTER else value.split()
        if len(pieces) != 2 or (value and not pattern):
            malformed += 1
        elif pattern:
            for at in _occurrences(gold.tokens, pattern):
                labels[at : at + len(pattern)] = [pieces[0]] * len(pattern)
    labels = labels[: len(gold.labels)]
    return labels, malformed


def _occurrences(tokens: Sequence[str], pattern: Sequence[str]) -> list[int]:
    lowered, wanted = [t.lower() for t in tokens], [p.lower() for p in pattern]
    size = len(wanted)
    return [at for at in range(len(lowered)) if lowered[at : at + size] == wanted]


def bio_tags(labels: Sequence[str]) -> list[str]:
    """Return labels as BIO tags; adjacent tokens of one type form one span."""
    tags = []
    before = OUTSIDE
    for label in labels:
        tag = "O" if label == OUTSIDE else f"{'I' if label == before else 'B'}-{label}"
        tags.append(sys.intern(tag))  # one string object per tag makes counting twice as fast
        before = label
    return tags
