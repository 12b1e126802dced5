"""Tasks: data, prompts, answers and metrics."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from adaptermix import metrics
from adaptermix.data.chats import Message
from adaptermix.data.languages import LANGUAGE_NAMES, language_code, split_pair
from adaptermix.entities import EntityExample, parse_entities, read_uner, render_entities
from adaptermix.errors import ConfigError, DataError
from adaptermix.files.text import (
    SlotExample,
    Split,
    json_rows,
    read_massive,
    without_lone_surrogates,
)
from adaptermix.metrics import Metric, Outcome, Score, Statistics
from adaptermix.settings.file import load_task_file
from adaptermix.settings.shared import ScorerSettings, TaskFile
from adaptermix.tagging import (
    bio_tags,
    label_answer,
    label_gold,
    parse_answer,
    render_answer,
    slots_of,
)
from adaptermix.translation import TranslationExample, read_translations, read_wmt

# The paper's appendix D.2 leaves out the middle sentence that its released training data has.
_SLOT_TASK = (
    "Given a command from the user, a voice assistant will extract entities essential for carry "
    "out the command.{example} Your task is to extract the entities as words from the command if "
    "they fall under a predefined list of entity types."
)


# Appendix D.2 again: for a base model that was not trained on the task, with the types named. The
# paper prints two of MASSIVE's 55 types as one, "person_email_folder"; here they are two.
_ZERO_SHOT = """\
Given a command from the user, a voice assistant like Siri or Olly will extract entities from the \
command that are essential for carry out the the command. For example, for a command about playing \
a specific song, the name of the song mentioned by the user would be an entity, falling under the \
type of "song name".

Your task is to extract the entities as words from the command if they fall under any of the types \
given below according to the following description:

transport_descriptor house_place music_album sport_type playlist_name movie_name song_name \
place_name radio_name cooking_type weather_descriptor person email_folder business_type \
audiobook_author transport_type general_frequency meal_type game_name device_type transport_name \
time_zone joke_type drink_type email_address food_type date relation currency_name ingredient \
player_setting movie_type definition_word game_type list_name artist_name personal_info \
audiobook_name timeofday transport_agency media_type podcast_name coffee_type business_name \
news_topic app_name podcast_descriptor color_type music_genre event_name time change_amount \
alarm_type order_type music_descriptor

Please give answers like:

1. person: john; contact_field: phone number
2. transport_app: uber; time_of_day: tonight; time: ten pm
3. None
4. music_genre: jazz

etc., each taking a single line. The entity type must be one of the types given above, and the \
entity must be copied verbatim from the command. There could be zero, one, or multiple entities in \
a command."""


SYSTEM_PROMPTS = {
    "paper": _SLOT_TASK.format(example=""),
    "authors-code": _SLOT_TASK.format(
        example="\nFor example, for a command about playing a specific song, the name of the song "
        'mentioned by the user would be an entity, falling under the type of "song name".\n'
    ).replace("\n Your", "\nYour"),
    "zero-shot": _ZERO_SHOT,
}


# Appendix D.2: the English template of Universal NER in the Aya collection, for every language.
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


class Example(Protocol):
    """What every task's examples have."""

    @property
    def id(self) -> str:
        """Its id, unlike any other of its language and part."""

    @property
    def lang(self) -> str:
        """Its language, or pair of languages."""

    @property
    def utterance(self) -> str:
        """The sentence it is about."""


E = TypeVar("E", bound=Example)


class Task(Protocol):
    """An evaluation and fine-tuning task over text.

    Scores are sums: ``value(statistics(outcomes).sum(axis=0))`` is ``score(outcomes).value``, for
    the first of the task's metrics; each of ``metrics`` has the same two functions.
    """

    @property
    def name(self) -> str:
        """Name of the task, as on the command line."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that were asked for; the first one is the task's score."""

    def read(self, lang: str, split: Split, data_dir: Path | None) -> list[Any]:
        """Return the examples of one language, in file order."""

    def messages(self, example: Any) -> list[Message]:
        """Return the chat messages that ask for the answer."""

    def answer(self, example: Any) -> str:
        """Return the answer a model should give."""

    def outcome(self, example: Any, output: str) -> Outcome:
        """Read one model output; accepts any text."""

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Return one row of sufficient statistics an example, of the first metric."""

    def value(self, sums: Any) -> Any:
        """Return the first metric of sums of rows: [..., stats] to [...]."""

    def score(self, outcomes: Sequence[Outcome]) -> Score:
        """Score the outputs of one language by the first metric."""

    def scores(self, outcomes: Sequence[Outcome]) -> dict[str, Score]:
        """Score the outputs of one language by every metric, by name."""


class _Scored(ABC):
    """The part of a task that follows from its metrics."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that were asked for; the first one is the task's score."""

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Return one row of sufficient statistics an example, of the first metric."""
        return self.metrics[0].statistics(outcomes)

    def value(self, sums: Any) -> Any:
        """Return the first metric of sums of rows: [..., stats] to [...]."""
        return self.metrics[0].value(sums)

    def score(self, outcomes: Sequence[Outcome]) -> Score:
        """Score the outputs of one language by the first metric."""
        return metrics.score(self.metrics[0], outcomes)

    def scores(self, outcomes: Sequence[Outcome]) -> dict[str, Score]:
        """Score the outputs of one language by every metric, by name."""
        return {metric.name: metrics.score(metric, outcomes) for metric in self.metrics}


def _chat(system: str, user: str) -> list[Message]:
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": user}]


@dataclass(frozen=True)
class Massive(_Scored):
    """Slot filling on MASSIVE, as generation: ``time: five am; date: this week``.

    ``options.scorer`` is ``strict`` (types and values) or ``paper`` (the authors' script).
    """

    system_prompt: str = SYSTEM_PROMPTS["paper"]
    options: ScorerSettings = ScorerSettings()
    name: str = "massive"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Slot F1, by one of two scorers."""
        slot_f1 = metrics.SLOT_F1 if self.options.scorer == "strict" else metrics.SpanF1()
        return metrics.chosen([slot_f1], self.options.metrics, self.name)

    def read(self, lang: str, split: Split, data_dir: Path | None) -> list[SlotExample]:
        """Return the examples of one language, in file order."""
        return read_massive(lang, split, data_dir)

    def messages(self, example: SlotExample) -> list[Message]:
        """Return the system prompt, where there is one, and the utterance."""
        return _chat(self.system_prompt, example.utterance)

    def answer(self, example: SlotExample) -> str:
        """Return the slots as ``type: value; type: value``, or ``None``."""
        return render_answer(slots_of(example.annotated))

    def outcome(self, example: SlotExample, output: str) -> Outcome:
        """Read the slots out of one model output; for the paper's scorer, the tags it gives."""
        if self.options.scorer == "paper":
            gold = label_gold(example.utterance, example.annotated, example.locale)
            labels, malformed = label_answer(output, gold, example.locale)
            return Outcome(bio_tags(labels), bio_tags(gold.labels), malformed)
        answer = parse_answer(output)
        return Outcome(answer.slots, slots_of(example.annotated), answer.malformed)


@dataclass(frozen=True)
class Translation(_Scored):
    """Translation, scored by BLEU, chrF and COMET; a language is a pair such as ``en-de``.

    Attributes:
        system_prompt: Replaces the paper's, which names both languages.
    """

    system_prompt: str | None = None
    options: ScorerSettings = ScorerSettings()
    name: str = "wmt23"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """BLEU and chrF, or those asked for."""
        names = self.options.metrics or ("bleu", "chrf")
        return metrics.chosen(_text_metrics(self.options), names, self.name)

    def read(self, lang: str, split: Split, data_dir: Path | None) -> list[TranslationExample]:
        """Return the examples of one direction, in file order; of the files given, if any."""
        if self.options.src is None:
            return read_wmt(lang, split, data_dir)
        for code in split_pair(lang):
            language_code(code)
        return read_translations(self.options.src, self.options.ref, lang)

    def messages(self, example: TranslationExample) -> list[Message]:
        """Return the paper's system prompt and the sentence."""
        if self.system_prompt is not None:
            return _chat(self.system_prompt, example.source)
        source, target = (LANGUAGE_NAMES[language_code(code)] for code in example.lang.split("-"))
        return _chat(
            f"Translate the following sentences from {source} to {target}.", example.source
        )

    def answer(self, example: TranslationExample) -> str:
        """Return the first reference."""
        return example.references[0]

    def outcome(self, example: TranslationExample, output: str) -> Outcome:
        """Take the output as it is; an empty one counts as malformed."""
        return _text_outcome(
            output, example.references, example.source, lang=example.lang.rpartition("-")[2]
        )


@dataclass(frozen=True)
class Uner(_Scored):
    """Named entities of Universal NER, as generation of JSON with types, texts and offsets."""

    system_prompt: str | None = None
    options: ScorerSettings = ScorerSettings()
    name: str = "uner"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Entity F1, over types and texts or over types and offsets."""
        entity_f1 = metrics.ENTITY_F1[self.options.match]
        return metrics.chosen([entity_f1], self.options.metrics, self.name)

    def read(self, lang: str, split: Split, data_dir: Path | None) -> list[EntityExample]:
        """Return the examples of one language, in file order."""
        return read_uner(lang, split, data_dir)

    def messages(self, example: EntityExample) -> list[Message]:
        """Return the paper's instruction, worked example and sentence, as one user message."""
        return _chat(self.system_prompt or "", _ENTITY_PROMPT + example.utterance)

    def answer(self, example: EntityExample) -> str:
        """Return the entities as JSON."""
        return render_entities(example.entities)

    def outcome(self, example: EntityExample, output: str) -> Outcome:
        """Read the entities out of one model output."""
        answer = parse_entities(output)
        return Outcome(answer.entities, list(example.entities), answer.malformed)


@dataclass(frozen=True)
class RecordExample:
    """One JSON record of a task of one's own, with its prompt and answer filled in."""

    id: str
    lang: str
    system: str
    utterance: str
    expected: str


@dataclass(frozen=True)
class OwnTask(_Scored):
    """A task declared in a TOML file, over JSON records; see ``config.TaskFile``."""

    file: TaskFile
    folder: Path
    system_prompt: str | None = None
    options: ScorerSettings = ScorerSettings()

    @property
    def name(self) -> str:
        """The name the file gives."""
        return self.file.name

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics the file names, or those of them that were asked for."""
        known: dict[str, Metric] = {
            "slots": metrics.SLOT_F1,
            "entities": metrics.ENTITY_F1[self.options.match],
            "exact-match": metrics.ExactMatch(),
            **{metric.name: metric for metric in _text_metrics(self.options)},
        }
        named = [known[name] for name in self.file.metrics]
        asked = self.options.metrics or tuple(metric.name for metric in named)
        return metrics.chosen(named, asked, self.name)

    def read(self, lang: str, split: Split, data_dir: Path | None) -> list[RecordExample]:
        """Return the examples of one language from the file of this part, in file order.

        Raises:
            DataError: The task has no such part, or its file is missing or malformed.
        """
        pattern = self.file.files.get(split)
        if pattern is None:
            raise DataError(f"the task {self.name} has no file for the {split} part")
        folder = self.folder if data_dir is None else data_dir
        return self.read_file(folder / pattern.replace("{lang}", lang), lang)

    def read_file(self, path: Path, lang: str) -> list[RecordExample]:
        """Return the examples of one file.

        Raises:
            DataError: A missing or malformed file, or one without records.
        """
        rows = [self._example(row, f"{path}:{number}", lang) for number, row in json_rows(path)]
        if not rows:
            raise DataError(f"{path}: no records")
        return rows

    def _example(self, row: Any, place: str, lang: str) -> RecordExample:
        if not isinstance(row, dict):
            raise DataError(f"{place}: not a JSON object")
        id_ = _field(row, self.file.id, place) if self.file.id else place.rpartition(":")[2]
        return RecordExample(
            id=id_,
            lang=lang,
            system=_filled(self.file.system, row, place),
            utterance=_filled(self.file.prompt, row, place),
            expected=_field(row, self.file.answer, place),
        )

    def messages(self, example: RecordExample) -> list[Message]:
        """Return the filled-in templates."""
        system = example.system if self.system_prompt is None else self.system_prompt
        return _chat(system, example.utterance)

    def answer(self, example: RecordExample) -> str:
        """Return the record's answer."""
        return example.expected

    def outcome(self, example: RecordExample, output: str) -> Outcome:
        """Read one model output as the metric has it: slots, entities or text."""
        if "slots" in self.file.metrics:
            slots = parse_answer(output)
            return Outcome(slots.slots, parse_answer(example.expected).slots, slots.malformed)
        if "entities" in self.file.metrics:
            found = parse_entities(output)
            expected = parse_entities(example.expected).entities
            return Outcome(found.entities, expected, found.malformed)
        lang = self.file.target_lang or example.lang.rpartition("-")[2]
        return _text_outcome(output, (example.expected,), example.utterance, lang=lang)


def _filled(template: str, row: Mapping[str, Any], place: str) -> str:
    """Put fields of the record where the template has ``{field}``."""
    return re.sub(r"\{([\w-]+)\}", lambda match: _field(row, match[1], place), template)


def _field(row: Mapping[str, Any], name: str, place: str) -> str:
    if name not in row:
        raise DataError(f"{place}: no field '{name}'")
    if not isinstance(row[name], str | int | float):
        raise DataError(f"{place}: '{name}' must be text or a number")
    return str(row[name])


def _text_metrics(options: ScorerSettings) -> list[Metric]:
    return [
        metrics.SacreMetric("bleu", options.tokenize),
        metrics.SacreMetric("chrf"),
        metrics.Comet(options.comet_model, options.comet_python),
    ]


def _text_outcome(output: str, references: Sequence[str], source: str, *, lang: str) -> Outcome:
    text = without_lone_surrogates(output)  # MeCab and COMET would stop at one
    return Outcome(text, list(references), int(not text.strip()), source, lang)


def make_task(
    name: str,
    prompt: str = "paper",
    system_prompt: str | None = None,
    options: ScorerSettings | None = None,
) -> Task:
    """Return the task of that name, or the one a TOML file declares.

    Args:
        name: ``massive``, ``wmt23``, ``uner``, or the path of a ``.toml`` file.
        prompt: Which of the system prompts MASSIVE gets.
        system_prompt: Replaces the system prompt of any task.
        options: How outputs are scored; what ``ScorerSettings`` has by default.

    Raises:
        ConfigError: No such task, or a malformed file.
    """
    options = options or ScorerSettings()
    if name.endswith(".toml"):
        path = Path(name)
        return OwnTask(load_task_file(path), path.parent, system_prompt, options)
    if name == "massive":
        return Massive(SYSTEM_PROMPTS[prompt] if system_prompt is None else system_prompt, options)
    if name == "wmt23":
        return Translation(system_prompt, options)
    if name == "uner":
        return Uner(system_prompt, options)
    raise ConfigError(f"no task '{name}'", hint="massive, wmt23, uner, or a .toml file")
