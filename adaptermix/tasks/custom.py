"""User-defined tasks, described by a TOML file."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import regex
from pydantic import AfterValidator, Field, ValidationError, model_validator

from adaptermix.data.chats import Message
from adaptermix.data.languages import hint_of_language, target_of
from adaptermix.errors import ConfigError, DataError, MissingDataError
from adaptermix.files.records import open_records
from adaptermix.files.text import Split, why_no_file
from adaptermix.files.toml import hint_of_keys, line_of, read_toml
from adaptermix.settings.locations import at_home, is_local_data
from adaptermix.settings.shared import ScorerSettings, Settings, complaint, keys_of
from adaptermix.tasks.entities import parse_entities
from adaptermix.tasks.metrics import f1 as metrics
from adaptermix.tasks.metrics.metric import Metric, Outcome, chosen
from adaptermix.tasks.metrics.text import ExactMatch, text_metrics
from adaptermix.tasks.slots import parse_answer, swallowed_type
from adaptermix.tasks.task import Task, chat_of, text_outcome

_BRACES = re.compile(r"\{([^{}\n]+)\}")
_FIELD = regex.compile(r"\w(?:[\w.-]*[\w-])?")  # what is surely meant as one, in any script


class TaskFile(Settings):
    """A user-defined task, as a ``.toml`` file.

    Templates refer to fields of a record in braces; braces with spaces inside are text if no
    column has that name. ``files`` has one pattern per split: a CSV,
    TSV, parquet, JSON or JSON lines file, or a data set on the Hub, as
    ``OWNER/NAME[:CONFIG][:SPLIT]``. ``{lang}`` in a pattern stands for the language. Paths are
    relative to the TOML file, or to --data-dir. ``columns`` maps field names to columns that have
    another name in the files. COMET also reads the text that is translated: ``source`` names its
    field, which is needed if the prompt has several fields::

        name = "intent"
        metrics = ["exact-match"]
        system = "Name the intent of the command."
        prompt = "{utt}"
        answer = "intent"
        id = "id"
        columns = {utt = "text"}

        [files]
        train = "{lang}.train.jsonl"
        dev = "{lang}.dev.csv"
        test = "{lang}.test.jsonl"
    """

    name: str = Field(min_length=1)
    metrics: tuple[Literal["slots", "entities", "exact-match", "bleu", "chrf", "comet"], ...]
    system: str = ""
    prompt: str
    answer: str
    source: str = ""
    id: str = ""
    target_lang: str = ""
    columns: dict[str, str] = Field(default_factory=dict)
    files: dict[Literal["train", "dev", "test"], Annotated[str, AfterValidator(at_home)]] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _one_kind_of_metric(self) -> "TaskFile":
        if not self.metrics or (len(self.metrics) > 1 and {"slots", "entities"} & {*self.metrics}):
            raise ValueError("expected slots or entities alone, or at least one text metric")
        return self

    @model_validator(mode="after")
    def _source_is_known(self) -> "TaskFile":
        if "comet" in self.metrics and not self.source_field:
            raise ValueError(
                "comet needs the text that is translated, and the prompt does not have exactly one "
                'field; name its field: source = "FIELD"'
            )
        return self

    @property
    def source_field(self) -> str:
        """The field with the text that is translated; empty if it is unknown or COMET unused."""
        if "comet" not in self.metrics:
            return ""
        asked = {*_fields(self.prompt)} or {*_BRACES.findall(self.prompt)}
        return self.source or (asked.pop() if len(asked) == 1 else "")


def load_task_file(path: Path) -> TaskFile:
    """Read the file of a user-defined task.

    Raises:
        ConfigError: The file does not exist, a key is unknown or missing, or a value is wrong. The
            message names file and line.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: {why_no_file(path)}", hint="check --task")
    content = read_toml(path)
    for key in content:
        if key not in keys_of(TaskFile):
            is_table = isinstance(content[key], dict)
            line = line_of(path, key, None) if is_table else line_of(path, None, key)
            raise ConfigError(
                f"{path}:{line}: unknown key '{key}'",
                hint=hint_of_keys(key, keys_of(TaskFile)),
            )
    try:
        return TaskFile.model_validate(content)
    except ValidationError as error:
        raise _task_file_error(error, path) from error


def _task_file_error(error: ValidationError, path: Path) -> ConfigError:
    first = error.errors()[0]
    key, *inner = (str(part) for part in first["loc"]) if first["loc"] else ("metrics",)
    if inner and key == "files":
        line, key = line_of(path, key, inner[0]), f"files.{inner[0]}"
    else:
        line = line_of(path, None, key)
    return ConfigError(f"{path}:{line}: {key}: {complaint(first)}")


@dataclass(frozen=True)
class RecordExample:
    """One record of a user-defined task, with its prompt and answer filled in."""

    id: str
    lang: str
    system: str
    utterance: str
    expected: str
    source: str = ""


@dataclass(frozen=True)
class CustomTask(Task):
    """A task over records that is defined by a TOML file; see ``TaskFile``."""

    file: TaskFile
    folder: Path
    system_prompt: str | None = None
    options: ScorerSettings = ScorerSettings()

    @property
    def name(self) -> str:
        """The name given in the file."""
        return self.file.name

    @property
    def definition(self) -> str:
        """The content of the file, with the metrics and the language of the answers."""
        return self.file.model_dump_json()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics listed in the file, or the requested ones of them."""
        known: dict[str, Metric] = {
            "slots": metrics.SLOT_F1,
            "entities": metrics.ENTITY_F1[self.options.match],
            "exact-match": ExactMatch(),
            **{metric.name: metric for metric in text_metrics(self.options)},
        }
        named = [known[name] for name in self.file.metrics]
        asked = self.options.metrics or tuple(metric.name for metric in named)
        return chosen(named, asked, self.name)

    def check_langs(
        self, langs: Sequence[str], splits: Sequence[Split], data_dir: Path | None
    ) -> None:
        """Check that no file is read for several languages: each copy would count as evidence.

        Raises:
            ConfigError: A file without ``{lang}`` in its name is to be read for several languages,
                or a language cannot name a file of answers.
        """
        for lang in langs:
            if "/" in lang:
                raise ConfigError(
                    f"--langs: '{lang}' contains a slash",
                    hint="write the folder in the task's file: "
                    f'"{lang.rpartition("/")[0]}/{{lang}}.jsonl"',
                )
        for split, pattern in self.file.files.items():
            if split in splits and len(langs) > 1 and "{lang}" not in pattern:
                raise ConfigError(
                    f'the task {self.name}: {split} = "{pattern}" is one file for '
                    f"{len(langs)} languages",
                    hint="name its language with --langs, or write {lang} for the language in the "
                    "file name",
                )

    def read(self, lang: str, split: Split, data_dir: Path | None) -> list[RecordExample]:
        """Return the examples of one language and split, in file order.

        Raises:
            DataError: The task has no such split, or its file is missing or malformed.
        """
        pattern = self.file.files.get(split)
        if pattern is None:
            raise DataError(
                f"the task {self.name} has no {split} data",
                hint=f'add a line under [files] in its file: {split} = "FILE"',
            )
        folder = self.folder if data_dir is None else data_dir
        name = pattern.replace("{lang}", lang)
        if not is_local_data(name, folder):
            return self.read_file(Path(name), lang)
        path = folder / name
        if not path.exists() and (langs := _languages_there(folder, pattern)):
            hint = hint_of_language(lang, langs, "there are files for ")
            raise MissingDataError(f"{path}: no such file", hint=hint)
        return self.read_file(path, lang)

    def read_file(self, path: Path, lang: str) -> list[RecordExample]:
        """Return the examples of one file, or of a data set on the Hub.

        Raises:
            ConfigError: ``columns`` names a column that does not exist.
            DataError: The file is missing or malformed, or it has no records.
            ResourceError: A package that reads the format is not installed, or the Hub cannot be
                reached.
        """
        records = open_records(path, self.file.columns, option=f"{self.name}: columns")
        names = [*_fields(self.file.system + self.file.prompt, records.names), self.file.answer]
        names += [name for name in (self.file.id, self.file.source_field) if name]
        return [
            self._example(row, records.at(number), lang, names)
            for number, row in records.rows(names)
        ]

    def _example(
        self, row: Mapping[str, Any], location: str, lang: str, names: Sequence[str]
    ) -> RecordExample:
        id_ = _field(row, self.file.id, location) if self.file.id else location.rpartition(":")[2]
        expected = self._answer_of(row, location)
        self._check_answer(expected, location)
        source = self.file.source_field
        return RecordExample(
            id=id_,
            lang=lang,
            system=_filled(self.file.system, row, location, names),
            utterance=_filled(self.file.prompt, row, location, names),
            expected=expected,
            source=_field(row, source, location) if source else "",
        )

    def _answer_of(self, row: Mapping[str, Any], location: str) -> str:
        """Return the answer of a record; entities may be a JSON list."""
        value = row.get(self.file.answer)
        if "entities" in self.file.metrics and isinstance(value, dict | list):
            return json.dumps(value, ensure_ascii=False)
        return _field(row, self.file.answer, location)

    def _check_answer(self, expected: str, location: str) -> None:
        """Check that a correct answer can be parsed; otherwise it would count as an empty one.

        Slots that end up in the value of the slot before them would be wrong in every answer.
        """
        for kind, parse, form in (
            ("slots", parse_answer, '"type: value; type: value", or None if there are none'),
            (
                "entities",
                parse_entities,
                '[{"TypeName": "LOC", "Text": "Rome"}], or [] if there are none',
            ),
        ):
            if kind in self.file.metrics and expected.strip() and parse(expected).malformed:
                raise DataError(
                    f"{location}: '{self.file.answer}' cannot be read as {kind}: {expected[:80]!r}",
                    hint=f"write it as {form}",
                )
        if "entities" in self.file.metrics and self.options.match == "offsets":
            without = [e for e in parse_entities(expected).entities if None in (e.start, e.end)]
            if without:
                raise DataError(
                    f"{location}: '{self.file.answer}' has no Start and End of "
                    f"'{without[0].text[:80]}', which --match offsets compares",
                    hint="add both to every entity, or use --match text",
                )
        if "slots" in self.file.metrics:
            swallowed = swallowed_type(parse_answer(expected).slots)
            if swallowed is not None:
                raise DataError(
                    f"{location}: '{self.file.answer}' cannot be read as slots: "
                    f"'{swallowed[:80]}' is not a type",
                    hint="a type has up to 41 characters: letters, digits, spaces and hyphens, and "
                    "other characters inside a word, as in toloc.city_name",
                )

    def messages(self, example: RecordExample) -> list[Message]:
        """Return the filled-in templates."""
        system = example.system if self.system_prompt is None else self.system_prompt
        return chat_of(system, example.utterance)

    def answer(self, example: RecordExample) -> str:
        """Return the record's answer."""
        return example.expected

    def outcome(self, example: RecordExample, output: str) -> Outcome:
        """Parse one model output into what the metric compares: slots, entities or text."""
        if "slots" in self.file.metrics:
            slots = parse_answer(output)
            return Outcome(slots.slots, parse_answer(example.expected).slots, slots.malformed)
        if "entities" in self.file.metrics:
            found = parse_entities(output)
            expected = parse_entities(example.expected).entities
            return Outcome(found.entities, expected, found.malformed)
        lang = self.file.target_lang or target_of(example.lang)
        return text_outcome(output, (example.expected,), example.source, lang=lang)


def _fields(template: str, columns: Sequence[str] = ()) -> list[str]:
    """Return the fields of a template: braces with the name of a column, or with one word."""
    named = _BRACES.findall(template)
    return [name for name in named if name in columns or _FIELD.fullmatch(name)]


def _filled(template: str, row: Mapping[str, Any], location: str, names: Sequence[str]) -> str:
    """Replace each ``{field}`` of a template with the record's field, if it is one of the names."""
    return _BRACES.sub(
        lambda match: _field(row, match[1], location) if match[1] in names else match[0], template
    )


def _field(row: Mapping[str, Any], name: str, location: str) -> str:
    if name not in row:
        raise DataError(
            f"{location}: no field '{name}'",
            hint='check the templates of the task; columns = {name = "column"} renames a column',
        )
    value = row[name]
    if not isinstance(value, str | int | float) or (isinstance(value, float) and math.isnan(value)):
        raise DataError(
            f"{location}: '{name}' must be text or a number",
            hint="remove the row, or write it as text",
        )
    return str(value)


def _languages_there(folder: Path, pattern: str) -> list[str]:
    """Return the languages that have a file, if file names contain the language."""
    start, lang, end = pattern.partition("{lang}")
    if not lang or "{lang}" in end or Path(pattern).is_absolute():
        return []
    names = (path.relative_to(folder).as_posix() for path in folder.glob(f"{start}*{end}"))
    return sorted(name.removeprefix(start).removesuffix(end) for name in names)
