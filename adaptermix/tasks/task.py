"""What a task is: how an example becomes a prompt and an answer, and outputs become scores."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from adaptermix.data.chats import Message
from adaptermix.files.text import Split, without_lone_surrogates
from adaptermix.tasks.metrics.metric import Metric, Outcome, Score, Statistics, score


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


class Scored(ABC):
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
        return score(self.metrics[0], outcomes)

    def scores(self, outcomes: Sequence[Outcome]) -> dict[str, Score]:
        """Score the outputs of one language by every metric, by name."""
        return {metric.name: score(metric, outcomes) for metric in self.metrics}


def chat_of(system: str, user: str) -> list[Message]:
    """Return a conversation of an optional system message and a user message."""
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": user}]


def text_outcome(output: str, references: Sequence[str], source: str, *, lang: str) -> Outcome:
    """Return the outcome of an answer that is compared with references as text."""
    text = without_lone_surrogates(output)  # MeCab and COMET would stop at one
    return Outcome(text, list(references), int(not text.strip()), source, lang)
