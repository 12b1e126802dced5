"""The prompts of a task, and the systems' answers to them, decoded by an engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from adaptermix.adapters.adapter import Adapter
from adaptermix.adapters.names import fits_text_alone
from adaptermix.adapters.systems import System, adapter_for
from adaptermix.adapters.writing import stage_adapter
from adaptermix.generation.cached import CachedGenerator
from adaptermix.generation.engine import Generated, Limits, Request
from adaptermix.generation.prompts import PromptedExample, PromptEncoder, read_prompts
from adaptermix.models.systems import Systems
from adaptermix.progress import OnProgress
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.tasks.catalog import make_task, notes_on_unused
from adaptermix.tasks.metrics.metric import Outcome
from adaptermix.tasks.metrics.normalization import notes_on_normalization
from adaptermix.tasks.metrics.text import notes_on_reasoning
from adaptermix.tasks.task import Scored, Task

if TYPE_CHECKING:
    from adaptermix.generation.server_client import Served


@dataclass(frozen=True)
class Answered:
    """The answers of all systems.

    Attributes:
        answers: Answers of each system, in the order of the examples.
        outcomes: Parsed answers, by system.
        engine: Name of the engine.
        decoded: Number of decoded prompts.
        reused: Number of prompts with cached answers.
        notes: Notes for the user about prompts and answers.
    """

    answers: list[list[Generated]]
    outcomes: dict[str, list[Outcome]]
    engine: str
    decoded: int
    reused: int
    notes: list[str]


class Asked(Protocol):
    """The questions for the systems: prompts of a task, or lm-eval tasks."""

    @property
    def settings(self) -> EvalSettings:
        """The settings, with lm-eval tasks in place of languages."""

    @property
    def name(self) -> str:
        """Name of the task in results."""

    @property
    def split(self) -> str:
        """Split of the data."""

    @property
    def task(self) -> Scored:
        """The task, or the scoring of lm-eval tasks."""

    @property
    def items(self) -> list[PromptedExample]:
        """All examples, language by language."""

    @property
    def servers(self) -> "Sequence[Served]":
        """Descriptions of the servers, if servers decode."""

    @property
    def notes(self) -> Sequence[str]:
        """Notes on the prompts."""

    def notes_on(self, adapters: Mapping[str, Adapter]) -> list[str]:
        """Return notes on adapters that were trained with a different prompt."""

    def answer(
        self, systems: Systems, tested: Mapping[str, System | None], on_progress: OnProgress
    ) -> Answered:
        """Return the answers of all systems; None stands for the base model."""


@dataclass(frozen=True)
class Prompts:
    """The prompts of a task."""

    settings: EvalSettings
    task: Task
    encoder: PromptEncoder
    items: list[PromptedExample]
    servers: "Sequence[Served]"

    @classmethod
    def of(cls, settings: EvalSettings, systems: Systems, servers: "Sequence[Served]") -> "Prompts":
        """Read the examples of all languages."""
        encoder = PromptEncoder.of(systems.tokenizer, settings)
        task = make_task(settings.task, settings.prompt, settings.system_prompt, settings)
        for note in notes_on_unused(settings, task):
            encoder.note(note)
        task.check_langs(settings.langs, (settings.split,), settings.data_dir)
        items = read_prompts(settings, settings.split, task, encoder, systems.folder)
        task.check_metrics([item.example for item in items])
        return cls(settings, task, encoder, items, servers)

    @property
    def name(self) -> str:
        """Name of the task in results."""
        return self.settings.task

    @property
    def split(self) -> str:
        """Split of the data."""
        return self.settings.split

    @property
    def notes(self) -> list[str]:
        """Notes on the prompts."""
        return self.encoder.notes

    def notes_on(self, adapters: Mapping[str, Adapter]) -> list[str]:
        """Return notes on adapters that were trained with a different prompt.

        For tokenizer and chat template, only their presence is compared, because paths may change.
        """
        idle = self.settings.without_effect(self.settings.model_dump(by_alias=True))

        def differs(field: str, before: Any) -> bool:
            now = getattr(self.settings, field)
            is_named = field in ("tokenizer", "chat_template")
            return (before is None) != (now is None) if is_named else before != now

        return [
            f"{name} was trained with a different {field.replace('_', ' ')} than the one in this "
            "evaluation"
            for name, adapter in adapters.items()
            for field in ("prompt", "system_prompt", "turn_newline", "tokenizer", "chat_template")
            if field not in idle
            and field in adapter.record.get("settings", {})
            and differs(field, adapter.record["settings"][field])
        ]

    def answer(
        self, systems: Systems, tested: Mapping[str, System | None], on_progress: OnProgress
    ) -> Answered:
        """Decode every prompt with every system on one engine."""
        adapters, items = systems.adapters, self.items
        rank, widest = max(((_rank(a), str(a.path)) for a in adapters.values()), default=(1, ""))
        limits = Limits(
            adapters=len(adapters),
            rank=rank,
            prompt=max(len(item.prompt_ids) for item in items),
            widest=widest,
            is_text=all(fits_text_alone(a.modules) for a in adapters.values()),
        )
        generator = CachedGenerator(
            self.settings, systems.folder, self.encoder, limits, self.servers
        )
        with generator.staging() as scratch:
            staged = {str(a.path): stage_adapter(a, scratch) for a in adapters.values()}
            generator.names = {path: name for name, path in staged.items()}
            places = [_places(system, self.settings.langs, scratch) for system in tested.values()]
            answers = _decode(generator, items, places, on_progress)
        outcomes = {
            system: [
                self.task.outcome(item.example, answer.text)
                for item, answer in zip(items, given, strict=True)
            ]
            for system, given in zip(tested, answers, strict=True)
        }
        texts = {
            system: [answer.text for answer in given]
            for system, given in zip(tested, answers, strict=True)
        }
        return Answered(
            answers,
            outcomes,
            generator.engine,
            generator.decoded,
            generator.reused,
            [
                *self.encoder.notes,
                *generator.notes,
                *notes_on_normalization(outcomes),
                *notes_on_reasoning(texts),
            ],
        )


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
