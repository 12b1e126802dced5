"""Evaluate the base model and adapters side by side on a task, and keep every prediction."""

import csv
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from adaptermix import __version__
from adaptermix.adapters import (
    Adapter,
    adapter_hash,
    check_fits,
    check_output,
    read_adapter,
    stage_adapter,
    whole_output,
)
from adaptermix.batching import PromptEncoder
from adaptermix.config import EvalSettings
from adaptermix.errors import ConfigError, DataError
from adaptermix.generation import Generated, Generator, Request, make_generator
from adaptermix.metrics import Score
from adaptermix.models import fingerprint, load_tokenizer, locate_model, weight_shapes
from adaptermix.tasks import Example, Outcome, Task, make_task

BASE = "base"


@dataclass(frozen=True)
class EvalProgress:
    """How far evaluation is, for a progress bar."""

    stage: str
    done: int
    total: int


OnProgress = Callable[[EvalProgress], None]


@dataclass(frozen=True)
class Cell:
    """One system on one language; ``score`` is the first of its ``scores``."""

    system: str
    lang: str
    score: Score
    examples: int
    malformed: int
    cut_answers: int
    scores: dict[str, Score]


@dataclass(frozen=True)
class EvalReport:
    """Scores of all systems on all languages; ``macro`` is the mean over the languages."""

    task: str
    split: str
    engine: str
    systems: list[str]
    langs: list[str]
    cells: list[Cell]
    macro: dict[str, float]
    notes: list[str]
    out: str

    def cell(self, system: str, lang: str) -> Cell:
        """Return one system's result on one language."""
        return next(c for c in self.cells if (c.system, c.lang) == (system, lang))

    def as_record(self) -> dict[str, Any]:
        """Return the report as a dictionary for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class EvalPlan:
    """What an evaluation would do."""

    systems: list[str]
    examples: dict[str, int]
    longest_prompt: int
    out: str

    def as_record(self) -> dict[str, Any]:
        """Return the plan as a dictionary for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Item:
    """One example with its prompt."""

    lang: str
    example: Example
    prompt_ids: list[int]


def evaluate(
    settings: EvalSettings,
    *,
    force: bool = False,
    on_progress: OnProgress = lambda progress: None,
) -> EvalReport:
    """Decode the task's examples with every system and score the answers.

    Writes a new directory: ``scores.json``, ``scores.csv``, and for every system and language
    ``predictions/SYSTEM/LANG.jsonl`` with one record an example.

    Raises:
        ConfigError: Two adapters of one name.
        DataError: Missing or malformed data, an unknown language.
        ArtifactError: A model or adapter that cannot be used, or an output that exists.
        ResourceError: The engine asked for is not installed.
    """
    job = _prepare(settings, force)
    folder, adapters, items, task = job.folder, job.adapters, job.items, job.task
    with tempfile.TemporaryDirectory(prefix="adaptermix-") as scratch:
        staged = {name: stage_adapter(a, Path(scratch)) for name, a in adapters.items()}
        on_progress(EvalProgress("starting the engine", 0, 0))
        generator = make_generator(
            settings,
            folder,
            job.encoder.tokenizer,
            _stop_ids(folder, job.encoder),
            list(staged.values()),
            max((_rank(adapter) for adapter in adapters.values()), default=1),
            max(len(item.prompt_ids) for item in items),
        )
        answers = _decode(generator, items, [None, *staged.values()], on_progress)
    systems = [BASE, *adapters]
    results = {
        system: [task.outcome(item.example, a.text) for item, a in zip(items, given, strict=True)]
        for system, given in zip(systems, answers, strict=True)
    }
    cells = [
        _cell(task, system, lang, items, given, results[system])
        for system, given in zip(systems, answers, strict=True)
        for lang in settings.langs
    ]
    report = EvalReport(
        task=settings.task,
        split=settings.split,
        engine=generator.name,
        systems=systems,
        langs=list(settings.langs),
        cells=cells,
        macro={system: _macro(cells, system) for system in systems},
        notes=_prompt_notes(settings, adapters),
        out=str(settings.out),
    )
    record = {
        "adaptermix": __version__,
        "settings": settings.model_dump(mode="json"),
        "base_fingerprint": fingerprint(folder),
        "adapters": {
            name: {"path": str(adapter.path), "sha256": adapter_hash(adapter)}
            for name, adapter in adapters.items()
        },
    }
    _write(report, record, items, dict(zip(systems, answers, strict=True)), results)
    return report


@dataclass(frozen=True)
class _Job:
    """Everything an evaluation needs, checked before an engine is started."""

    folder: Path
    adapters: dict[str, Adapter]
    task: Task
    encoder: PromptEncoder
    items: list[_Item]


def _prepare(settings: EvalSettings, force: bool) -> _Job:
    check_output(settings.out, force)
    adapters = _named([read_adapter(Path(path)) for path in settings.adapters])
    folder = locate_model(settings)
    shapes = weight_shapes(folder)
    for adapter in adapters.values():
        check_fits(adapter, shapes, settings.model)
    tokenizer = load_tokenizer(folder, settings)
    encoder = PromptEncoder(tokenizer, turn_newline=settings.turn_newline)
    task = make_task(settings.task, settings.prompt, settings.system_prompt, settings)
    return _Job(folder, adapters, task, encoder, _read_items(settings, task, encoder))


def plan(settings: EvalSettings, *, force: bool = False) -> EvalPlan:
    """Check everything ``evaluate`` needs and say what it would do; raises what it raises."""
    job = _prepare(settings, force)
    counts = Counter(item.lang for item in job.items)
    longest = max(len(item.prompt_ids) for item in job.items)
    return EvalPlan([BASE, *job.adapters], dict(counts), longest, str(settings.out))


def _named(adapters: Sequence[Adapter]) -> dict[str, Adapter]:
    """Name every adapter by its file or folder."""
    named: dict[str, Adapter] = {}
    for adapter in adapters:
        name = adapter.path.resolve().name.removesuffix(".safetensors")
        if name in named or name == BASE:
            raise ConfigError(
                f"--adapter {adapter.path}: a system named '{name}' is there already",
                hint="rename the file, so that the table can tell them apart",
            )
        named[name] = adapter
    return named


def _prompt_notes(settings: EvalSettings, adapters: dict[str, Adapter]) -> list[str]:
    """Say which adapters were trained on another prompt than they are tested with."""
    return [
        f"{name} was trained with another {field.replace('_', ' ')} than it is tested with"
        for name, adapter in adapters.items()
        for field in ("prompt", "system_prompt", "turn_newline")
        if field in adapter.record.get("settings", {})
        and adapter.record["settings"][field] != getattr(settings, field)
    ]


def _rank(adapter: Adapter) -> int:
    pattern = adapter.config.get("rank_pattern") or {}
    return int(max(adapter.config["r"], *pattern.values(), 0))


def _read_items(settings: EvalSettings, task: Task, encoder: PromptEncoder) -> list[_Item]:
    items = []
    for lang in settings.langs:
        examples = task.read(lang, settings.split, settings.data_dir)[: settings.limit]
        ids = [example.id for example in examples]
        if len(set(ids)) < len(ids):
            raise DataError(f"{lang}: an id occurs twice in the {settings.split} partition")
        items += [_Item(lang, e, encoder.prompt_ids(task.messages(e))) for e in examples]
    return items


def _stop_ids(folder: Path, encoder: PromptEncoder) -> list[int]:
    """Return every token that ends an answer: the template's, the tokenizer's, the model's own."""
    ids = {encoder.end_id}
    if encoder.tokenizer.eos_token_id is not None:
        ids.add(int(encoder.tokenizer.eos_token_id))
    if (folder / "generation_config.json").is_file():
        eos = GenerationConfig.from_pretrained(str(folder)).eos_token_id
        ids.update([eos] if isinstance(eos, int) else eos or [])
    return sorted(ids)


def _decode(
    generator: Generator,
    items: Sequence[_Item],
    adapters: Sequence[Path | None],
    on_progress: OnProgress,
) -> list[list[Generated]]:
    """Answer every item with every system; return the answers system by system."""
    requests = [Request(item.prompt_ids, adapter) for adapter in adapters for item in items]
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        on_progress(EvalProgress("decoding", done, len(requests)))

    count(0)
    answers = generator.generate(requests, count)
    return [answers[at : at + len(items)] for at in range(0, len(requests), len(items))]


def _cell(
    task: Task,
    system: str,
    lang: str,
    items: Sequence[_Item],
    answers: Sequence[Generated],
    outcomes: Sequence[Outcome],
) -> Cell:
    mine = [at for at, item in enumerate(items) if item.lang == lang]
    scores = task.scores([outcomes[at] for at in mine])
    return Cell(
        system=system,
        lang=lang,
        score=next(iter(scores.values())),
        examples=len(mine),
        malformed=sum(outcomes[at].malformed > 0 for at in mine),
        cut_answers=sum(answers[at].is_cut for at in mine),
        scores=scores,
    )


def _macro(cells: Sequence[Cell], system: str) -> float:
    values = [cell.score.value for cell in cells if cell.system == system]
    return sum(values) / len(values)


def _write(
    report: EvalReport,
    record: dict[str, Any],
    items: Sequence[_Item],
    answers: dict[str, list[Generated]],
    outcomes: dict[str, list[Outcome]],
) -> None:
    with whole_output(Path(report.out)) as partial:
        partial.mkdir()
        text = json.dumps(record | report.as_record(), indent=2, ensure_ascii=False)
        (partial / "scores.json").write_text(text + "\n", encoding="utf-8")
        _write_csv(partial / "scores.csv", report)
        for system in report.systems:
            folder = partial / "predictions" / system
            folder.mkdir(parents=True)
            for lang in report.langs:
                with (folder / f"{lang}.jsonl").open("w", encoding="utf-8") as file:
                    rows = zip(items, answers[system], outcomes[system], strict=True)
                    for item, answer, outcome in rows:
                        if item.lang == lang:
                            file.write(_prediction(item, answer, outcome) + "\n")


def _prediction(item: _Item, answer: Generated, outcome: Outcome) -> str:
    return json.dumps(
        {
            "id": item.example.id,
            "lang": item.lang,
            "utterance": item.example.utterance,
            "output": answer.text,
            **outcome.as_record(),
            "is_cut": answer.is_cut,
        },
        ensure_ascii=False,
    )


def _write_csv(path: Path, report: EvalReport) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["lang", *report.systems])
        for lang in report.langs:
            values = [report.cell(system, lang).score.value for system in report.systems]
            writer.writerow([lang, *values])
        writer.writerow(["macro average", *(report.macro[system] for system in report.systems)])
