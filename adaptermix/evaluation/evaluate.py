"""Evaluate the base model and adapters side by side on a task, and store all predictions."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptermix.adapters.adapter import Adapter
from adaptermix.adapters.family import Family
from adaptermix.adapters.systems import (
    BASE,
    System,
    adapter_for,
    adapters_of,
    choose_baseline,
    read_routed_systems,
    system_record,
    systems_of,
)
from adaptermix.adapters.writing import stage_adapter
from adaptermix.evaluation.comparison import PairedTest, compare
from adaptermix.evaluation.report import EvalPlan, EvalReport, SystemScores, files_of
from adaptermix.evaluation.seeds import over_seeds
from adaptermix.files.hub import path_of
from adaptermix.files.outputs import check_output, whole_output
from adaptermix.generation.cached import CachedGenerator, check_engine, check_room, notes_on_servers
from adaptermix.generation.engine import Generated, Limits, Request
from adaptermix.generation.prompts import PromptedExample, PromptEncoder, read_prompts
from adaptermix.models.systems import Systems, open_systems
from adaptermix.progress import OnProgress, ignore
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.settings.paper import PAPER_GROUPS
from adaptermix.settings.shared import notes_on_languages
from adaptermix.tasks.catalog import make_task
from adaptermix.tasks.metrics.metric import Outcome
from adaptermix.tasks.metrics.significance import Statistics
from adaptermix.tasks.metrics.text import notes_on_tokenizers, without_missing_comet
from adaptermix.tasks.task import Task
from adaptermix.version import __version__

if TYPE_CHECKING:
    from adaptermix.generation.server_client import Served


def evaluate(
    settings: EvalSettings,
    *,
    force: bool = False,
    on_progress: OnProgress = ignore,
) -> EvalReport:
    """Decode the task's examples with every system and score the answers.

    Writes a new directory with ``scores.json``, ``scores.csv``, ``differences.csv``, ``seeds.csv``
    if systems have several seeds, and ``predictions/SYSTEM/LANG.jsonl`` with one record per
    example for every system and language.

    Raises:
        ConfigError: Two adapters have the same name, the baseline is not one of the systems, or
            answers may be longer than the model's context.
        DataError: Data is missing or malformed, or a language is unknown.
        ArtifactError: A model or adapter cannot be used, or the output exists.
        ResourceError: The chosen engine is not installed.
    """
    settings, missing = without_missing_comet(settings)
    inputs = _prepare(settings, force)
    adapters, items, task = inputs.systems.adapters, inputs.items, inputs.task
    rank, widest = max(((_rank(a), str(a.path)) for a in adapters.values()), default=(1, ""))
    limits = Limits(
        adapters=len(adapters),
        rank=rank,
        prompt=max(len(item.prompt_ids) for item in items),
        widest=widest,
    )
    generator = CachedGenerator(
        settings, inputs.systems.folder, inputs.encoder, limits, inputs.servers
    )
    with generator.staging() as scratch:
        staged = {str(a.path): stage_adapter(a, scratch) for a in adapters.values()}
        generator.names = {path: name for name, path in staged.items()}
        places = [_places(system, settings.langs, scratch) for system in inputs.tested]
        answers = _decode(generator, items, places, on_progress)
    systems = inputs.names
    results = {
        system: [task.outcome(item.example, a.text) for item, a in zip(items, given, strict=True)]
        for system, given in zip(systems, answers, strict=True)
    }
    cells = [
        _cell(task, system, lang, items, given, results[system])
        for system, given in zip(systems, answers, strict=True)
        for lang in settings.langs
    ]
    groups = _groups(settings)
    baseline = choose_baseline(settings, inputs.routed)
    test = PairedTest.of(settings.test, task.metrics[0], len(settings.langs))
    statistics = _statistics(inputs, results) if len(systems) > 1 else {}
    report = EvalReport(
        task=settings.task,
        split=settings.split,
        engine=generator.engine,
        decoded=generator.decoded,
        reused=generator.reused,
        systems=systems,
        langs=list(settings.langs),
        cells=cells,
        macro=_macro(cells, systems, settings.langs),
        groups=groups,
        group_macro={name: _macro(cells, systems, langs) for name, langs in groups.items()},
        comparisons=compare(statistics, task.value, baseline.name, groups, test)
        if statistics
        else [],
        notes=[
            *missing,
            *notes_on_languages(settings),
            *notes_on_tokenizers(task.metrics, results[systems[0]]),
            *inputs.systems.notes(),
            *_route_notes(inputs.routed, settings.langs),
            *_prompt_notes(settings, adapters),
            *inputs.encoder.notes,
            *generator.notes,
        ],
        out=str(settings.out),
        baseline=baseline,
        test=test if statistics else None,
        over_seeds=over_seeds(statistics, task.value, baseline.name, groups),
    )
    record = {
        "adaptermix": __version__,
        "settings": settings.model_dump(mode="json"),
        "base_fingerprint": inputs.systems.fingerprint,
        "adapters": {name: system_record(system) for name, system in inputs.routed.items()},
    }
    _write(report, record, items, dict(zip(systems, answers, strict=True)), results)
    return report


@dataclass(frozen=True)
class _EvalInputs:
    """The inputs of an evaluation, checked before an engine starts.

    Attributes:
        systems: The base model, and all adapters.
        routed: The systems except for the base model.
        task: The task.
        encoder: The encoder of the prompts.
        items: All examples.
        servers: Descriptions of the servers, if servers decode.
    """

    systems: Systems
    routed: Mapping[str, System]
    task: Task
    encoder: PromptEncoder
    items: list[PromptedExample]
    servers: Sequence["Served"]

    @property
    def names(self) -> list[str]:
        """Names of the systems, in order."""
        return [*([BASE] if self.systems.has_base else []), *self.routed]

    @property
    def tested(self) -> list[System | None]:
        """The systems in the same order; None for the base model."""
        return [self.routed.get(name) for name in self.names]


def _prepare(settings: EvalSettings, force: bool) -> _EvalInputs:
    check_output(settings.out, force)
    systems_of(settings)
    routed = read_routed_systems(map(path_of, settings.adapters))
    adapters = adapters_of(routed)
    systems = open_systems(settings, adapters, has_base=not settings.exclude_base)
    for family in _families(routed):
        family.check_base(settings.model, systems.fingerprint)
    servers = check_engine(settings, systems.folder, list(systems.adapters.values()))
    encoder = PromptEncoder.of(systems.tokenizer, settings)
    task = make_task(settings.task, settings.prompt, settings.system_prompt, settings)
    items = read_prompts(settings, settings.split, task, encoder, systems.folder)
    return _EvalInputs(systems, routed, task, encoder, items, servers)


def plan(settings: EvalSettings, *, force: bool = False) -> EvalPlan:
    """Check the inputs of ``evaluate`` and return what it would do. Raises the same errors."""
    inputs = _prepare(settings, force)
    counts = Counter(item.lang for item in inputs.items)
    longest = max(len(item.prompt_ids) for item in inputs.items)
    check_room(inputs.servers, longest, settings)
    return EvalPlan(
        inputs.names,
        dict(counts),
        longest,
        str(settings.out),
        notes=[
            *inputs.systems.tokenizer_notes(),
            *_route_notes(inputs.routed, settings.langs),
            *inputs.encoder.notes,
            *notes_on_servers(inputs.servers),
        ],
    )


def _families(systems: Mapping[str, System]) -> list[Family]:
    return [system for system in systems.values() if isinstance(system, Family)]


def _route_notes(systems: Mapping[str, System], langs: Sequence[str]) -> list[str]:
    return [note for family in _families(systems) for note in family.notes_on(langs)]


def _prompt_notes(settings: EvalSettings, adapters: Mapping[str, Adapter]) -> list[str]:
    """Return notes on adapters that were trained with a different prompt than they are tested with.

    For tokenizer and chat template, only their presence is compared, because paths may change.
    """

    def differs(field: str, before: Any) -> bool:
        now = getattr(settings, field)
        is_named = field in ("tokenizer", "chat_template")
        return (before is None) != (now is None) if is_named else before != now

    return [
        f"{name} was trained with another {field.replace('_', ' ')} than it is tested with"
        for name, adapter in adapters.items()
        for field in ("prompt", "system_prompt", "turn_newline", "tokenizer", "chat_template")
        if field in adapter.record.get("settings", {})
        and differs(field, adapter.record["settings"][field])
    ]


def _rank(adapter: Adapter) -> int:
    pattern = adapter.config.get("rank_pattern") or {}
    return int(max(adapter.config["r"], *pattern.values(), 0))


def _places(system: System | None, langs: Sequence[str], scratch: Path) -> dict[str, Path | None]:
    """Return the folders where a system's adapters are staged, by language."""
    if system is None:
        return dict.fromkeys(langs)
    return {lang: stage_adapter(adapter_for(system, lang), scratch) for lang in langs}


def _decode(
    generator: CachedGenerator,
    items: Sequence[PromptedExample],
    places: Sequence[Mapping[str, Path | None]],
    on_progress: OnProgress,
) -> list[list[Generated]]:
    """Decode every item with every system, and return the answers by system."""
    requests = [
        Request(item.prompt_ids, adapters[item.lang], group=item.lang)
        for adapters in places
        for item in items
    ]
    answers = generator.decode(requests, on_progress)
    return [answers[at : at + len(items)] for at in range(0, len(requests), len(items))]


def _cell(
    task: Task,
    system: str,
    lang: str,
    items: Sequence[PromptedExample],
    answers: Sequence[Generated],
    outcomes: Sequence[Outcome],
) -> SystemScores:
    mine = [at for at, item in enumerate(items) if item.lang == lang]
    scores = task.scores([outcomes[at] for at in mine])
    return SystemScores(
        system=system,
        lang=lang,
        score=next(iter(scores.values())),
        examples=len(mine),
        malformed=sum(outcomes[at].malformed > 0 for at in mine),
        cut_answers=sum(answers[at].is_truncated for at in mine),
        truncated_prompts=sum(items[at].is_truncated for at in mine),
        scores=scores,
    )


def _macro(
    cells: Sequence[SystemScores], systems: Sequence[str], langs: Sequence[str]
) -> dict[str, float]:
    """Return every system's macro average over languages."""
    values = {(cell.system, cell.lang): cell.score.value for cell in cells}
    return {system: sum(values[system, lang] for lang in langs) / len(langs) for system in systems}


def _groups(settings: EvalSettings) -> dict[str, list[str]]:
    """Return the groups of tested languages, without groups that are empty or contain all."""
    groups = settings.groups
    if groups is None:
        groups = PAPER_GROUPS if settings.task == "massive" else {}
    tested = {name: [lang for lang in settings.langs if lang in groups[name]] for name in groups}
    return {name: langs for name, langs in tested.items() if 0 < len(langs) < len(settings.langs)}


def _statistics(
    inputs: _EvalInputs, outcomes: dict[str, list[Outcome]]
) -> dict[str, dict[str, Statistics]]:
    """Return the sufficient statistics of every example, by system and language."""
    members = {
        lang: [at for at, item in enumerate(inputs.items) if item.lang == lang]
        for lang in dict.fromkeys(item.lang for item in inputs.items)
    }
    return {
        system: {
            lang: inputs.task.statistics([outcomes[system][at] for at in mine])
            for lang, mine in members.items()
        }
        for system in inputs.names
    }


def _write(
    report: EvalReport,
    record: dict[str, Any],
    items: Sequence[PromptedExample],
    answers: dict[str, list[Generated]],
    outcomes: dict[str, list[Outcome]],
) -> None:
    with whole_output(Path(report.out)) as partial:
        partial.mkdir()
        text = json.dumps(record | report.as_record(), indent=2, ensure_ascii=False)
        (partial / "scores.json").write_text(text + "\n", encoding="utf-8")
        for table in files_of(report):
            table.write(partial, "csv")
        for system in report.systems:
            folder = partial / "predictions" / system
            folder.mkdir(parents=True)
            for lang in report.langs:
                rows = zip(items, answers[system], outcomes[system], strict=True)
                mine = [row for row in rows if row[0].lang == lang]
                segments = {n: s.segments for n, s in report.cell(system, lang).scores.items()}
                with (folder / f"{lang}.jsonl").open("w", encoding="utf-8") as file:
                    for at, row in enumerate(mine):
                        own = {name: values[at] for name, values in segments.items()}
                        file.write(_prediction(*row, own) + "\n")


def _prediction(
    item: PromptedExample, answer: Generated, outcome: Outcome, scores: dict[str, float]
) -> str:
    return json.dumps(
        {
            "id": item.example.id,
            "lang": item.lang,
            "utterance": item.example.utterance,
            "output": answer.text,
            **outcome.as_record(),
            "scores": scores,
            "is_cut": answer.is_truncated,
            "is_truncated": item.is_truncated,
        },
        ensure_ascii=False,
    )
