"""Evaluate the base model and adapters side by side on a task, and store all predictions."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import eq
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptermix.adapters.family import Family
from adaptermix.adapters.systems import (
    BASE,
    System,
    adapters_of,
    choose_baseline,
    read_routed_systems,
    system_record,
    systems_of,
)
from adaptermix.data.languages import Same, are_same, members_of, notes_on_groups
from adaptermix.errors import ConfigError
from adaptermix.evaluation.asking import Answered, Asked, Prompts
from adaptermix.evaluation.comparison import PairedTest, compare
from adaptermix.evaluation.report import EvalPlan, EvalReport, SystemScores, files_of
from adaptermix.evaluation.seeds import over_seeds
from adaptermix.files.hub import path_of
from adaptermix.files.outputs import check_output, whole_output
from adaptermix.generation.cached import check_engine, check_room, notes_on_servers
from adaptermix.generation.engine import Generated
from adaptermix.generation.prompts import PromptedExample
from adaptermix.models.systems import Systems, open_systems
from adaptermix.progress import OnProgress, ignore
from adaptermix.settings.evaluation import EvalSettings, clash_of_groups
from adaptermix.settings.paper import PAPER_GROUPS
from adaptermix.settings.shared import harness_tasks, notes_on_languages
from adaptermix.tasks.metrics.metric import Outcome, prepare
from adaptermix.tasks.metrics.significance import Statistics
from adaptermix.tasks.metrics.text import notes_on_tokenizers, require_comet, without_missing_comet
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
    settings, systems = inputs.asked.settings, inputs.names
    answered = inputs.asked.answer(inputs.systems, inputs.tested, on_progress)
    task, results = inputs.asked.task, answered.outcomes  # answers may change names of metrics
    cells = _cells(inputs, answered)
    groups = _groups(settings)
    baseline = choose_baseline(settings, inputs.routed)
    test = PairedTest.of(settings.test, task.metrics[0], len(settings.langs))
    statistics = _statistics(inputs, results) if len(systems) > 1 else {}
    report = EvalReport(
        task=inputs.asked.name,
        split=inputs.asked.split,
        engine=answered.engine,
        decoded=answered.decoded,
        reused=answered.reused,
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
            *_group_notes(settings),
            *notes_on_tokenizers(task.metrics, results[systems[0]]),
            *inputs.systems.notes(),
            *_route_notes(inputs.routed, settings.langs),
            *inputs.asked.notes_on(inputs.systems.adapters),
            *answered.notes,
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
    _write(report, record, inputs, answered)
    return report


@dataclass(frozen=True)
class _EvalInputs:
    """The inputs of an evaluation, checked before an engine starts.

    Attributes:
        systems: The base model, and all adapters.
        routed: The systems except for the base model.
        asked: The questions for the systems.
    """

    systems: Systems
    routed: Mapping[str, System]
    asked: Asked

    @property
    def names(self) -> list[str]:
        """Names of the systems, in order."""
        return [*([BASE] if self.systems.has_base else []), *self.routed]

    @property
    def tested(self) -> dict[str, System | None]:
        """The systems in the same order; None for the base model."""
        return {name: self.routed.get(name) for name in self.names}

    @cached_property
    def members(self) -> dict[str, list[int]]:
        """The indices of each language's examples."""
        members: dict[str, list[int]] = {lang: [] for lang in self.asked.settings.langs}
        for at, item in enumerate(self.asked.items):
            members[item.lang].append(at)
        return members


def _prepare(settings: EvalSettings, force: bool) -> _EvalInputs:
    check_output(settings.out, force, settings.inputs())
    systems_of(settings)
    routed = read_routed_systems(map(path_of, settings.adapters))
    adapters = adapters_of(routed)
    systems = open_systems(settings, adapters, has_base=not settings.exclude_base)
    for family in _families(routed):
        family.check_base(settings.model, systems.fingerprint)
        if harness_tasks(settings.task):
            raise ConfigError(
                f"{family.path}: a family has an adapter for each language, but lm-eval tasks "
                "have no language",
                hint=f"evaluate its adapters, such as --adapter {family.default.path}",
            )
    servers = check_engine(settings, systems.folder, list(systems.adapters.values()))
    asked = _asked(settings, systems, servers)
    return _EvalInputs(systems, routed, asked)


def _asked(settings: EvalSettings, systems: Systems, servers: Sequence["Served"]) -> Asked:
    if harness_tasks(settings.task):
        from adaptermix.evaluation.harness_run import HarnessQuestions

        asked = HarnessQuestions(settings, systems)
        if clash := clash_of_groups(settings.groups, asked.settings.langs, "task"):
            raise ConfigError(clash)  # lm-eval's own groups and tags are known only now
        return asked
    prompts = Prompts.of(settings, systems, servers)
    for metric in prompts.task.metrics:
        require_comet(metric)
    return prompts


def plan(settings: EvalSettings, *, force: bool = False) -> EvalPlan:
    """Check the inputs of ``evaluate`` and return what it would do. Raises the same errors."""
    settings, missing = without_missing_comet(settings)
    inputs = _prepare(settings, force)
    items, servers = inputs.asked.items, inputs.asked.servers
    counts = Counter(item.lang for item in items)
    longest = max(len(item.prompt_ids) for item in items)
    check_room(servers, longest, settings)
    return EvalPlan(
        inputs.names,
        dict(counts),
        longest,
        str(settings.out),
        notes=[
            *missing,
            *inputs.systems.tokenizer_notes(),
            *_group_notes(inputs.asked.settings),
            *_route_notes(inputs.routed, settings.langs),
            *inputs.asked.notes,
            *notes_on_servers(servers),
        ],
    )


def _families(systems: Mapping[str, System]) -> list[Family]:
    return [system for system in systems.values() if isinstance(system, Family)]


def _route_notes(systems: Mapping[str, System], langs: Sequence[str]) -> list[str]:
    return [note for family in _families(systems) for note in family.notes_on(langs)]


def _cells(inputs: _EvalInputs, answered: Answered) -> list[SystemScores]:
    """Score every system on every language."""
    items, cells = inputs.asked.items, []
    found = {
        (system, lang): [answered.outcomes[system][at] for at in mine]
        for system in inputs.names
        for lang, mine in inputs.members.items()
    }
    for metric in inputs.asked.task.metrics:
        prepare(metric, found.values())
    for system, answers in zip(inputs.names, answered.answers, strict=True):
        for lang, mine in inputs.members.items():
            outcomes = found[system, lang]
            scores = inputs.asked.task.scores(outcomes)
            cells.append(
                SystemScores(
                    system=system,
                    lang=lang,
                    score=next(iter(scores.values())),
                    examples=len(mine),
                    malformed=sum(outcome.malformed > 0 for outcome in outcomes),
                    cut_answers=sum(answers[at].is_truncated for at in mine),
                    truncated_prompts=sum(items[at].is_truncated for at in mine),
                    scores=scores,
                )
            )
    return cells


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
    same = _same_name(settings)
    tested = {name: members_of(members, settings.langs, same) for name, members in groups.items()}
    return {name: langs for name, langs in tested.items() if 0 < len(langs) < len(settings.langs)}


def _group_notes(settings: EvalSettings) -> list[str]:
    return notes_on_groups(settings.groups or {}, settings.langs, _same_name(settings))


def _same_name(settings: EvalSettings) -> Same:
    """Return whether two names mean one row of the results; tasks of lm-eval have one name."""
    return eq if harness_tasks(settings.task) else are_same


def _statistics(
    inputs: _EvalInputs, outcomes: dict[str, list[Outcome]]
) -> dict[str, dict[str, Statistics]]:
    """Return the sufficient statistics of every example, by system and language."""
    return {
        system: {
            lang: inputs.asked.task.statistics([outcomes[system][at] for at in mine])
            for lang, mine in inputs.members.items()
            if mine
        }
        for system in inputs.names
    }


def _write(
    report: EvalReport, record: dict[str, Any], inputs: _EvalInputs, answered: Answered
) -> None:
    with whole_output(Path(report.out)) as partial:
        partial.mkdir()
        text = json.dumps(record | report.as_record(), indent=2, ensure_ascii=False)
        (partial / "scores.json").write_text(text + "\n", encoding="utf-8")
        for table in files_of(report):
            table.write(partial, "csv")
        for system, answers in zip(report.systems, answered.answers, strict=True):
            outcomes = answered.outcomes[system]
            folder = partial / "predictions" / system
            folder.mkdir(parents=True)
            for lang, mine in inputs.members.items():
                segments = {n: s.segments for n, s in report.cell(system, lang).scores.items()}
                with (folder / f"{lang}.jsonl").open("w", encoding="utf-8") as file:
                    for number, at in enumerate(mine):
                        own = {name: values[number] for name, values in segments.items()}
                        row = _prediction(inputs.asked.items[at], answers[at], outcomes[at], own)
                        file.write(row + "\n")


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
