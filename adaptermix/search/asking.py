"""The dev examples of a search, and the candidates' answers to them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from adaptermix.adapters.names import fits_text_alone
from adaptermix.generation.cached import CachedGenerator, check_engine
from adaptermix.generation.engine import Limits, Request
from adaptermix.generation.prompts import PromptedExample, PromptEncoder, read_prompts
from adaptermix.models.systems import Systems
from adaptermix.progress import OnProgress
from adaptermix.search.dev_data import check_gold, read_dev
from adaptermix.settings.merging import SearchSettings
from adaptermix.settings.shared import harness_tasks
from adaptermix.tables import number_of
from adaptermix.tasks.catalog import make_task, notes_on_unused
from adaptermix.tasks.metrics.metric import Outcome
from adaptermix.tasks.metrics.text import require_comet
from adaptermix.tasks.task import Scored, Task

if TYPE_CHECKING:
    from adaptermix.generation.server_client import Served

CONCURRENT = 16  # adapters that the engine holds at a time

Part = tuple[Path, Sequence[PromptedExample]]  # a staged adapter, and examples of one language


class Asked(Protocol):
    """The dev examples of a task or of lm-eval tasks, and the engine that answers them."""

    @property
    def settings(self) -> SearchSettings:
        """The settings, with lm-eval tasks in place of languages."""

    @property
    def name(self) -> str:
        """Name of the task in results."""

    @property
    def task(self) -> Scored:
        """The task, or the scoring of lm-eval tasks."""

    @property
    def items(self) -> list[PromptedExample]:
        """All dev examples, language by language."""

    @property
    def engine(self) -> str:
        """Name of the engine."""

    @property
    def servers(self) -> "Sequence[Served]":
        """Descriptions of the servers, if servers decode."""

    @property
    def context(self) -> bytes:
        """Hash of everything that answers depend on, except adapters and prompts."""

    @property
    def names(self) -> dict[Path, str]:
        """Names of adapters in messages, by path; callers may fill it."""

    @property
    def reused(self) -> int:
        """Number of answers from the cache."""

    @property
    def notes(self) -> Sequence[str]:
        """Notes on the prompts and the data."""

    @property
    def notes_on_answers(self) -> Sequence[str]:
        """Notes on the answers, the cache and lost servers."""

    def staging(self) -> AbstractContextManager[Path]:
        """Create a temporary folder for adapters."""

    def outcomes(self, parts: Sequence[Part], on_progress: OnProgress) -> list[list[Outcome]]:
        """Return the outcomes of every part's examples, answered with its adapter."""


@dataclass
class DevPrompts:
    """The prompts of a task's dev examples, and an engine that answers them.

    Attributes:
        settings: The task, its data and the engine.
        task: The task.
        items: All dev examples, language by language.
        encoder: Encodes prompts.
        generator: Answers prompts.
        cut: Number of answers that reached the length limit.
    """

    settings: SearchSettings
    task: Task
    items: list[PromptedExample]
    encoder: PromptEncoder
    generator: CachedGenerator
    cut: int = 0

    @classmethod
    def of(
        cls, settings: SearchSettings, systems: Systems, adapters: int, rank: int
    ) -> "DevPrompts":
        """Read the dev examples, and prepare an engine without starting it.

        Args:
            settings: The task, its data and the engine.
            systems: The base model and the adapters to merge.
            adapters: Number of candidates.
            rank: The largest rank of a candidate.
        """
        servers = check_engine(settings, systems.folder, list(systems.adapters.values()))
        encoder = PromptEncoder.of(systems.tokenizer, settings)
        encoder.notes += systems.tokenizer_notes()
        task = make_task(settings.task, settings.prompt, settings.system_prompt, settings)
        require_comet(task.metrics[0])
        task.check_langs(settings.langs, ("dev",), settings.data_dir)
        if settings.per_language:
            items = read_dev(settings, task, encoder, systems.folder)
        else:
            items = read_prompts(settings, "dev", task, encoder, systems.folder)
        encoder.notes += [*notes_on_unused(settings, task), *_notes_on_metrics(settings, task)]
        check_gold(items, task, settings)
        task.check_metrics([item.example for item in items])
        shortened = sum(item.is_truncated for item in items)
        if shortened:
            encoder.note(
                f"shortened {number_of(shortened, 'dev prompt')} to fit the model's context"
            )
        longest = max(len(item.prompt_ids) for item in items)
        limits = Limits(
            adapters=min(CONCURRENT, adapters),
            rank=rank,
            prompt=longest,
            is_text=all(fits_text_alone(a.modules) for a in systems.adapters.values()),
        )
        generator = CachedGenerator(settings, systems.folder, encoder, limits, servers)
        return cls(settings, task, items, encoder, generator)

    @property
    def name(self) -> str:
        """Name of the task in results."""
        return self.settings.task

    @property
    def engine(self) -> str:
        """Name of the engine."""
        return self.generator.engine

    @property
    def servers(self) -> "Sequence[Served]":
        """Descriptions of the servers, if servers decode."""
        return self.generator.servers

    @property
    def context(self) -> bytes:
        """Hash of everything that answers depend on, except adapters and prompts."""
        return self.generator.context

    @property
    def names(self) -> dict[Path, str]:
        """Names of adapters in messages, by path."""
        return self.generator.names

    @property
    def reused(self) -> int:
        """Number of answers from the cache."""
        return self.generator.reused

    @property
    def notes(self) -> list[str]:
        """Notes on the prompts."""
        return self.encoder.notes

    @property
    def notes_on_answers(self) -> list[str]:
        """Notes on the cache, on lost servers and on cut answers."""
        if not self.cut:
            return self.generator.notes
        limit = self.settings.max_new_tokens
        cut = f"{number_of(self.cut, 'answer')} of the candidates reached --max-new-tokens {limit}"
        return [*self.generator.notes, f"{cut} and were cut"]

    def staging(self) -> AbstractContextManager[Path]:
        """Create a temporary folder for adapters."""
        return self.generator.staging()

    def outcomes(self, parts: Sequence[Part], on_progress: OnProgress) -> list[list[Outcome]]:
        """Decode the examples of all parts in one batch."""
        requests = [
            Request(item.prompt_ids, adapter, group=item.lang)
            for adapter, items in parts
            for item in items
        ]
        answers = self.generator.decode(requests, on_progress)
        self.cut += sum(answer.is_truncated for answer in answers)
        texts = (answer.text for answer in answers)
        return [
            [self.task.outcome(item.example, next(texts)) for item in items] for _, items in parts
        ]


def _notes_on_metrics(settings: SearchSettings, task: Scored) -> list[str]:
    """Note that a search has one score."""
    if len(settings.metrics) < 2:
        return []
    return [f"a search uses only the first of --metrics, {task.metrics[0].name}"]


def ask_dev_data(settings: SearchSettings, systems: Systems, adapters: int, rank: int) -> Asked:
    """Read the dev examples of a task, or of lm-eval tasks.

    Raises:
        ConfigError: Tasks of lm-eval that do not exist, or have no dev data.
        DataError: Missing or malformed dev data, or dev data without gold answers.
        ArtifactError: A model or adapter cannot be used.
        ResourceError: The chosen engine is not installed.
    """
    if not harness_tasks(settings.task):
        return DevPrompts.of(settings, systems, adapters, rank)
    from adaptermix.evaluation.harness_run import HarnessQuestions

    check_engine(settings, systems.folder, list(systems.adapters.values()))
    asked = HarnessQuestions(settings, systems, is_dev=True)
    asked.notes += [*systems.tokenizer_notes(), *_notes_on_metrics(settings, asked.task)]
    keys = asked.task.metrics[0].keys
    if len(set(keys.values())) > 1:
        told = (f"{key.partition(',')[0]} of {name}" for name, key in keys.items())
        asked.notes.append(f"the score is the average of {', '.join(told)}")
    return asked
