"""Named entities as a model writes them: possibly damaged JSON with types, texts and offsets.

The format is that of the paper's appendix D.2 (Universal NER in the Aya collection):

    "Results": [{"TypeName": "LOC", "Text": "Iguazu", "Start": 22, "End": 28}]
"""

import json
import re
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from adaptermix.files.text import without_lone_surrogates

_KEYS = {"typename": "type", "type": "type", "text": "text", "start": "start", "end": "end"}
# The start of a possible list of entities; "here are the results:" alone is prose.
_RESULTS = re.compile(
    r"""results?["'`]?\s*[:=]\s*(?=[\[{]|["'`]?Type)""",
    re.IGNORECASE,
)
_LISTS = 20  # possible starts of a list that are tried, so that long texts do not take longer
# A key, quoted or not, and a value: a bare word or number, or a quoted text that ends before a
# delimiter. Quotes inside a text need no backslash, because models omit it.
_PAIR = re.compile(
    r"""["'`]?\b(?P<key>TypeName|Type|Text|Start|End)["'`]?\s*:\s*
    (?: "(?P<double>(?:\\.|[^\\]){0,999}?)"(?=\s*(?:[,}\]]|$))
      | '(?P<single>(?:\\.|[^\\]){0,999}?)'(?=\s*(?:[,}\]]|$))
      | (?P<bare>[^\s"',}\]]+) )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_SEPARATOR = re.compile(r"[{}]")


class Entity(NamedTuple):
    """A named entity; offsets are in characters of the sentence, with an exclusive end."""

    type: str
    text: str
    start: int | None = None
    end: int | None = None


class EntityAnswer(NamedTuple):
    """The entities parsed from a model's answer, and the number of malformed ones."""

    entities: list[Entity]
    malformed: int


def render_entities(entities: Sequence[Entity]) -> str:
    """Format entities as the answer that a model is trained to give."""
    rows = [
        {"TypeName": entity.type, "Text": entity.text, "Start": entity.start, "End": entity.end}
        for entity in entities
    ]
    return f'"Results": {json.dumps(rows, ensure_ascii=False)}'


def parse_entities(text: str) -> EntityAnswer:
    """Parse a model's answer. Any text is accepted, and no error is raised.

    A valid JSON list is read as it is, whatever precedes or follows it. Otherwise every pair of a
    known key and a value is used, wherever it occurs, so that code fences, single quotes, missing
    brackets and unescaped quotes lose nothing. The first list is the answer. An entity without
    type or text (a truncated answer) and an answer without a list count as malformed. Repeated
    entities are kept.
    """
    openings = list(islice(_RESULTS.finditer(text), _LISTS))
    ends = [*(opening.start() for opening in openings[1:]), len(text)]
    places = [(opening.end(), end) for opening, end in zip(openings, ends, strict=False)]
    found = (_read_list(text, start, end) for start, end in [*places, (0, len(text))])
    return next((answer for answer in found if answer), EntityAnswer([], 1))


def _read_list(text: str, start: int, end: int) -> EntityAnswer | None:
    """Read the list that starts between two offsets, or return None if there is none.

    An empty list next to pairs is a damaged answer, not an answer without entities.
    """
    rows = _json_list(text, text.find("[", start, end))
    if rows:
        return _from_rows(rows)
    return _from_pairs(text[start:end]) or (None if rows is None else EntityAnswer([], 0))


def _json_list(text: str, at: int) -> list[Any] | None:
    """Return the JSON list that starts at the bracket, if it is a list of objects."""
    if at < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text, at)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) and all(isinstance(v, dict) for v in value) else None


def _from_rows(rows: list[dict[str, Any]]) -> EntityAnswer:
    entities = []
    for row in rows:
        fields = {_KEYS.get(str(key).casefold(), ""): value for key, value in row.items()}
        entities.append(_entity(fields))
    return _answer(entities)


def _from_pairs(text: str) -> EntityAnswer | None:
    """Group pairs into entities; a brace or a repeated key starts the next one."""
    groups: list[dict[str, Any]] = []
    last_end = 0
    for pair in _PAIR.finditer(text):
        key = _KEYS[pair["key"].casefold()]
        is_new = not groups or key in groups[-1] or _SEPARATOR.search(text, last_end, pair.start())
        if is_new:
            groups.append({})
        groups[-1][key] = _value(pair)
        last_end = pair.end()
    return _answer([_entity(fields) for fields in groups]) if groups else None


def _value(pair: re.Match[str]) -> str:
    quoted = pair["double"] if pair["double"] is not None else pair["single"]
    if quoted is None:
        return pair["bare"]
    try:  # decode \u00e9 and \" as JSON does; a text that is not JSON only loses its backslashes
        return str(json.loads(f'"{quoted}"', strict=False))
    except ValueError:
        return re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)


def _entity(fields: dict[str, Any]) -> Entity | None:
    type_, text = fields.get("type"), fields.get("text")
    if not isinstance(type_, str) or not isinstance(text, str):
        return None
    if not type_.strip() or not text.strip():
        return None
    offsets = (_offset(fields.get("start")), _offset(fields.get("end")))
    names = (without_lone_surrogates(type_.strip().upper()), without_lone_surrogates(text))
    return Entity(*names, *offsets)


def _offset(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    is_number = isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip())
    return int(value) if is_number else None


def _answer(entities: Sequence[Entity | None]) -> EntityAnswer:
    found = [entity for entity in entities if entity is not None]
    return EntityAnswer(found, len(entities) - len(found))
