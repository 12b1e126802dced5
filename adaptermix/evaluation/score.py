"""Score existing outputs of any system with a gold file, without a model."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptermix.data.languages import language_code, target_of
from adaptermix.errors import ConfigError, DataError
from adaptermix.files.outputs import NotedReport
from adaptermix.files.text import json_value, numbered_lines
from adaptermix.settings.evaluation import ScoreSettings
from adaptermix.settings.shared import Settings, flag_of
from adaptermix.tables import View, number_of, pairs, shown, titled
from adaptermix.tasks.catalog import make_task, notes_on_unused
from adaptermix.tasks.custom import CustomTask
from adaptermix.tasks.massive import read_massive_file
from adaptermix.tasks.metrics.metric import Score
from adaptermix.tasks.metrics.normalization import notes_on_normalization
from adaptermix.tasks.metrics.text import (
    notes_on_reasoning,
    notes_on_tokenizers,
    without_missing_comet,
)
from adaptermix.tasks.task import Example, Task
from adaptermix.tasks.translation import read_translations
from adaptermix.tasks.uner import read_iob2

# Fields of a record that may contain the output; the first one found is used.
OUTPUT_FIELDS = ("output", "prediction", "answer", "hypothesis", "translation", "text")


@dataclass(frozen=True)
class ScoreReport(NotedReport):
    """Scores by metric, and counts.

    Attributes:
        metrics: The score of every metric, by name.
        counts: Numbers of examples, malformed answers and malformed parts of them, and the counts
            of the metrics.
    """

    metrics: dict[str, Score]
    counts: dict[str, int]

    def view(self) -> View:
        """Return the human-readable view."""
        scores = {titled(name): shown(name, score.value) for name, score in self.metrics.items()}
        counts = {name.replace("_", " "): f"{count:,}" for name, count in self.counts.items()}
        if "malformed" in counts:
            counts["malformed"] += f" of {counts['examples']}"
        return View([pairs(scores | counts), *(s.signature for s in self.metrics.values())])

    def as_record(self) -> dict[str, Any]:
        """Return the report as a dictionary for JSON."""
        scores = {
            name: {
                "score": score.value,
                "signature": score.signature,
                "segments": list(score.segments),
            }
            for name, score in self.metrics.items()
        }
        return {"metrics": scores, "counts": self.counts}


@dataclass(frozen=True)
class Prediction:
    """One output, with the id of its row if the file has ids."""

    location: str
    output: str
    id: str | None = None


def score_files(settings: ScoreSettings) -> ScoreReport:
    """Score the outputs in a file.

    Raises:
        ConfigError: A flag that the task needs is missing, or the task does not have a metric.
        DataError: A file is missing or malformed, a language is unknown, the outputs differ from
            the gold rows in number or ids, or a reference is empty.
        ResourceError: A package that a metric needs is not installed.
    """
    settings, notes = without_missing_comet(settings)
    task = make_task(settings.task, options=settings)
    examples = _read_gold(task, settings)
    path = _needed(settings, "predictions")
    outputs = _in_order(read_predictions(path, is_json=_is_json(task)), examples, path)
    outcomes = [
        task.outcome(example, output) for example, output in zip(examples, outputs, strict=True)
    ]
    scores = task.scores(outcomes)
    counts = {
        "examples": len(outcomes),
        "malformed": sum(outcome.malformed > 0 for outcome in outcomes),
        "malformed_parts": sum(outcome.malformed for outcome in outcomes),
    }
    for score in scores.values():
        counts |= score.counts
    notes += [*notes_on_unused(settings, task), *_notes_on_files(settings)]
    notes += notes_on_tokenizers(task.metrics, outcomes)
    notes += notes_on_normalization({path.name: outcomes})
    notes += notes_on_reasoning({path.name: outputs})
    return ScoreReport(scores, counts, notes=notes)


def _notes_on_files(settings: ScoreSettings) -> list[str]:
    """Return notes on options that name or choose gold rows, and are not used by the task."""
    unused = {
        "massive": {"target_lang"},
        "uner": {"target_lang", "split"},
        "wmt23": {"gold", "lang", "split"},
    }.get(settings.task, {"split"})
    return [
        f"{flag_of(option)} has no effect with --task {settings.task}"
        for option in sorted(unused & settings.model_fields_set)
    ]


def _needed(settings: Settings, name: str) -> Any:
    value = getattr(settings, name)
    if value in (None, ()):
        raise ConfigError(
            f"--{name.replace('_', '-')} is missing", hint="adaptermix score --help has examples"
        )
    return value


def _read_gold(task: Task, settings: ScoreSettings) -> Sequence[Example]:
    readers: dict[str, Callable[[], Sequence[Example]]] = {
        "massive": lambda: _read_massive(settings),
        "wmt23": lambda: _read_translations(task, settings),
        "uner": lambda: _read_uner(settings),
    }
    if isinstance(task, CustomTask):
        lang = settings.target_lang or settings.lang or ""
        return task.read_file(_needed(settings, "gold"), lang)
    return readers[settings.task]()


def _read_massive(settings: ScoreSettings) -> Sequence[Example]:
    gold, lang = _needed(settings, "gold"), _needed(settings, "lang")
    rows = read_massive_file(gold, lang, settings.split)
    if not rows:
        raise DataError(f"{gold}: no rows of the {settings.split} partition")
    return rows


def _read_uner(settings: ScoreSettings) -> Sequence[Example]:
    lang = _needed(settings, "lang")
    language_code(lang)
    return read_iob2(_needed(settings, "gold"), lang)


def _read_translations(task: Task, settings: ScoreSettings) -> Sequence[Example]:
    target = language_code(target_of(_needed(settings, "target_lang")))
    if any(metric.name == "comet" for metric in task.metrics):
        _needed(settings, "src")
    return read_translations(settings.src, _needed(settings, "ref"), target)


def _is_json(task: Task) -> bool:
    """Whether answers are JSON themselves: named entities."""
    return any(metric.name == "entity_f1" for metric in task.metrics)


def read_predictions(path: Path, *, is_json: bool = False) -> list[Prediction]:
    """Read one output or JSON record per line; the first line determines which.

    A record is a JSON string, or an object with the output in one of ``OUTPUT_FIELDS`` and
    optionally an ``id``. Only a newline ends a line.

    Args:
        path: The file.
        is_json: Whether answers are JSON themselves; then other JSON is an answer.

    Raises:
        DataError: The file is missing or empty, or mixes records and other lines.
    """
    lines = list(numbered_lines(path))
    is_jsonl = path.name.removesuffix(".gz").endswith((".jsonl", ".json"))
    is_records = is_jsonl and not is_json
    if not is_records and not _is_record(lines[0][1], is_jsonl):
        return [Prediction(f"{path}:{number}", line) for number, line in lines]
    return [
        _prediction(line, f"{path}:{number}", is_json) for number, line in lines if line.strip()
    ]


def _is_record(line: str, may_be_text: bool) -> bool:
    try:
        value = json_value(line, "")
    except DataError:
        return False
    if isinstance(value, str):
        return may_be_text
    return isinstance(value, dict) and any(name in value for name in OUTPUT_FIELDS)


def _prediction(line: str, location: str, is_json: bool) -> Prediction:
    value = json_value(line, location)
    if isinstance(value, str):
        return Prediction(location, value)
    names = [name for name in OUTPUT_FIELDS if isinstance(value, dict) and name in value]
    output = value[names[0]] if names else None
    if is_json and isinstance(output, dict | list):
        output = json.dumps(output, ensure_ascii=False)
    if not isinstance(output, str):
        raise DataError(
            f"{location}: no text field 'output'",
            hint="a record is a JSON string, or an object with one of " + ", ".join(OUTPUT_FIELDS),
        )
    id_ = value.get("id")
    return Prediction(location, output, None if id_ is None else str(id_))


def _in_order(
    predictions: Sequence[Prediction], examples: Sequence[Example], path: Path
) -> list[str]:
    """Return the outputs in the order of the gold rows, matched by id if there are ids."""
    if len(predictions) != len(examples):
        raise DataError(
            f"{path}: {number_of(len(predictions), 'output')} for "
            f"{number_of(len(examples), 'gold row')}"
        )
    without = [prediction for prediction in predictions if prediction.id is None]
    if len(without) == len(predictions):
        return [prediction.output for prediction in predictions]
    if without:
        raise DataError(
            f"{without[0].location}: no 'id', although other records in the file have one",
            hint="add an id to every record, or remove all ids to match outputs by position",
        )
    known = set()
    for example in examples:
        if example.id in known:
            raise DataError(
                f"{path}: the outputs have ids, but the gold file has the id '{example.id}' twice",
                hint="leave out all ids to match outputs by position",
            )
        known.add(example.id)
    outputs: dict[str, str] = {}
    for prediction in predictions:
        if prediction.id not in known:
            raise DataError(
                f"{prediction.location}: the gold file has no id '{prediction.id}'",
                hint="use the ids of the gold file, or leave out all ids to match outputs "
                "by position",
            )
        if prediction.id in outputs:
            raise DataError(f"{prediction.location}: the id '{prediction.id}' occurs twice")
        outputs[prediction.id] = prediction.output
    return [outputs[example.id] for example in examples]
