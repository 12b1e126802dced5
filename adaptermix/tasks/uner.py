"""Universal NER: file formats and task."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from adaptermix.data.chats import Message
from adaptermix.data.languages import find_language, language_code
from adaptermix.errors import DataError, MissingDataError
from adaptermix.files.text import Split, find_file, has_file, numbered_lines
from adaptermix.settings.shared import ScorerSettings
from adaptermix.tasks.aya import aya_names, read_aya
from adaptermix.tasks.entities import Entity, parse_entities, render_entities
from adaptermix.tasks.metrics import f1 as metrics
from adaptermix.tasks.metrics.metric import Metric, Outcome, chosen
from adaptermix.tasks.task import Task, chat_of

ENTITY_TYPES = ("PER", "ORG", "LOC")


@dataclass(frozen=True)
class EntityExample:
    """A sentence and its named entities.

    Attributes:
        prompt: The whole question, which ends with the sentence, if the data contains it.
    """

    id: str
    lang: str
    utterance: str
    entities: tuple[Entity, ...]
    prompt: str = ""


class _Token(NamedTuple):
    form: str
    tag: str


def read_uner(lang: str, split: Split, data_dir: Path | None) -> list[EntityExample]:
    """Read one language and split of Universal NER, in file order.

    The folder and up to two levels of subfolders are searched for ``da.test.iob2`` or the official
    ``da_ddt-ud-test.iob2``, which may be gzipped. If neither exists, the Aya collection's
    ``test-*.parquet`` is used, which has a prompt in the language for every sentence.

    Raises:
        DataError: The language is unknown, no folder is given, there is no such file or more than
            one, or the file is malformed.
    """
    code = language_code(lang)
    if data_dir is None:
        raise DataError(
            "Universal NER is not downloaded from the Hub",
            hint="use --data-dir; adaptermix data get uner downloads it",
        )
    names = [f"{code}.{split}.iob2", f"{code}.{split}.iob2.gz", *_official(code, split)]
    patterns = list(dict.fromkeys([*names, *_official(lang, split)]))
    if not has_file(data_dir, patterns) and has_file(data_dir, aya_names(split)):
        return _read_aya(find_file(data_dir, aya_names(split), f"UNER {split}"), lang, code)
    named = rf"([a-z]+)(?:_.*-ud-|\.){split}\.iob2(?:\.gz)?"
    path = find_language(data_dir, patterns, lang, f"UNER {lang} {split}", named)
    return read_iob2(path, lang)


def _official(lang: str, split: Split) -> list[str]:
    return [f"{lang}_*-ud-{split}.iob2", f"{lang}_*-ud-{split}.iob2.gz"]


def _read_aya(path: Path, lang: str, code: str) -> list[EntityExample]:
    examples = []
    for row in read_aya(path, code):
        answer = parse_entities(row.answer)
        if answer.malformed and "{" in row.answer:  # without one, it says that there are none
            raise DataError(
                f"{path}: row {row.number}: an entity of the answer has no type or no text: "
                f"{row.answer[:80]!r}"
            )
        entities = tuple(answer.entities)
        examples.append(EntityExample(str(row.number), lang, row.sentence, entities, row.prompt))
    return examples


def read_iob2(path: Path, lang: str) -> list[EntityExample]:
    """Read sentences with PER, ORG and LOC entities; other types are not part of the task.

    The tag ``-``, which the Norwegian files give to words derived from names, is ignored too.
    Offsets refer to the ``# text`` comment. If that comment is missing or does not match the
    tokens, the text is the tokens joined by spaces.

    Raises:
        DataError: The file does not exist, a line is malformed, or there are no sentences.
    """
    examples: dict[str, EntityExample] = {}
    for number, comments, tokens in _sentences(path):
        id_ = comments.get("sent_id", str(len(examples)))
        id_ = f"{id_} (line {number})" if id_ in examples else id_
        text, offsets = _located(comments.get("text"), tokens)
        examples[id_] = EntityExample(id_, lang, text, tuple(_entities(text, offsets, tokens)))
    if not examples:
        raise MissingDataError(f"{path}: no sentences")
    return list(examples.values())


def _sentences(path: Path) -> Iterator[tuple[int, dict[str, str], list[_Token]]]:
    """Yield each sentence's last line number, comments and tokens."""
    comments: dict[str, str] = {}
    tokens: list[_Token] = []
    number = 0
    for number, line in numbered_lines(path):
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            comments[key.strip()] = value.strip()
        elif line.strip():
            tokens.append(_token(line, f"{path}:{number}"))
        elif tokens:
            yield number, comments, tokens
            comments, tokens = {}, []
    if tokens:
        yield number, comments, tokens


def _token(line: str, location: str) -> _Token:
    cells = line.split("\t")
    if len(cells) < 3 or not re.fullmatch(r"O|-|[BI]-[^\s-]+", cells[2]):
        raise DataError(
            f"{location}: expected a token with a tag, not {line[:80]!r}",
            hint="a line of .iob2 has a number, a token and a tag (O, B-PER, I-PER ...), "
            "separated by tabs",
        )
    return _Token(cells[1], "O" if cells[2] == "-" else cells[2])


def _located(text: str | None, tokens: Sequence[_Token]) -> tuple[str, list[tuple[int, int]]]:
    """Return the text, and the start and end offset of each token in it."""
    offsets = []
    at = 0
    for form, _ in tokens:
        while text and at < len(text) and text[at].isspace():
            at += 1
        if text is None or not text.startswith(form, at):
            return _joined(tokens)
        offsets.append((at, at + len(form)))
        at += len(form)
    return text or "", offsets


def _joined(tokens: Sequence[_Token]) -> tuple[str, list[tuple[int, int]]]:
    offsets = []
    at = 0
    for form, _ in tokens:
        offsets.append((at, at + len(form)))
        at += len(form) + 1
    return " ".join(token.form for token in tokens), offsets


def _entities(
    text: str, offsets: Sequence[tuple[int, int]], tokens: Sequence[_Token]
) -> Iterator[Entity]:
    """Join a B- tag and the following I- tags of its type; a stray I- tag starts an entity."""
    spans: list[tuple[str, int, int]] = []
    before = "O"
    for (start, end), (_, tag) in zip(offsets, tokens, strict=True):
        if tag.startswith("I-") and before[2:] == tag[2:]:
            spans[-1] = (spans[-1][0], spans[-1][1], end)
        elif tag != "O":
            spans.append((tag[2:], start, end))
        before = tag
    for type_, start, end in spans:
        if type_ in ENTITY_TYPES:
            yield Entity(type_, text[start:end], start, end)


# Appendix D.2: the Aya collection's English template of Universal NER, used for every language.
_ENTITY_PROMPT = (
    "Please identify all the named entities mentioned in the input sentence provided below. Use "
    "only the categories: PER - person, ORG - organization, and LOC - location. Remember, "
    "nationalities are neither locations nor organizations, and organizations can represent other "
    "groups of people. Pay attention to the provided example. You should only output the results "
    "in JSON format, following a similar structure to the example result provided. Example "
    'sentence and results: Where in the world is Iguazu? "Results": [{"TypeName": "LOC", "Text": '
    '"Iguazu", "Start": 22, "End": 28}] Considering the input sentence below, what is the output '
    "result? "
)


@dataclass(frozen=True)
class Uner(Task):
    """Universal NER as text generation: JSON with types, texts and offsets of named entities."""

    system_prompt: str | None = None
    options: ScorerSettings = ScorerSettings()
    name: str = "uner"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Entity F1 over types and texts, or over types and offsets."""
        entity_f1 = metrics.ENTITY_F1[self.options.match]
        return chosen([entity_f1], self.options.metrics, self.name)

    def read(self, lang: str, split: Split, data_dir: Path | None) -> list[EntityExample]:
        """Return the examples of one language, in file order.

        Raises:
            DataError: An expected entity has no offsets, which are compared.
        """
        examples = read_uner(lang, split, data_dir)
        for example in examples if self.options.match == "offsets" else ():
            for entity in example.entities:
                if entity.start is None or entity.end is None:
                    raise DataError(
                        f"the {split} data of {lang} has no Start and End of '{entity.text[:80]}' "
                        f"in row {example.id}, which --match offsets compares",
                        hint="use --match text",
                    )
        return examples

    def stored_as(self, lang: str, split: Split, data_dir: Path | None) -> str:
        """Return the plain code, unless there are files of this region or script."""
        is_own = data_dir is None or has_file(data_dir, _official(lang, split))
        return lang if is_own else language_code(lang)

    def messages(self, example: EntityExample) -> list[Message]:
        """Return the instruction, a worked example and the sentence as one user message.

        The data's own prompt is used if there is one, otherwise the paper's English prompt.
        """
        question = example.prompt or _ENTITY_PROMPT + example.utterance
        return chat_of(self.system_prompt or "", question)

    def answer(self, example: EntityExample) -> str:
        """Return the entities as JSON."""
        return render_entities(example.entities)

    def outcome(self, example: EntityExample, output: str) -> Outcome:
        """Parse the entities of one model output."""
        answer = parse_entities(output)
        return Outcome(answer.entities, list(example.entities), answer.malformed)
