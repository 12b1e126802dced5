"""The interface of tasks: examples to prompts and answers, and outputs to scores."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from adaptermix.data.chats import Message
from adaptermix.data.languages import are_same
from adaptermix.errors import ConfigError
from adaptermix.files.text import Split, without_lone_surrogates
from adaptermix.tasks.metrics.metric import Metric, Outcome, Score, Statistics, score


class Example(Protocol):
    """The interface of every task's examples."""

    @property
    def id(self) -> str:
        """An ID that is unique within the language and split."""

    @property
    def lang(self) -> str:
        """The language or language pair."""

    @property
    def utterance(self) -> str:
        """The input sentence."""


class Scored(ABC):
    """What is scored with metrics: a task, or lm-eval tasks."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """The requested metrics; the first one is the task's score."""

    @property
    def definition(self) -> str:
        """What a file of the user says about the task; empty if there is none."""
        return ""

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Return the first metric's sufficient statistics, one row per example."""
        return self.metrics[0].statistics(outcomes)

    def value(self, sums: Any) -> Any:
        """Return the first metric's scores [...] of summed rows [..., stats]."""
        return self.metrics[0].value(sums)

    def score(self, outcomes: Sequence[Outcome]) -> Score:
        """Score the outputs of one language by the first metric."""
        return score(self.metrics[0], outcomes)

    def scores(self, outcomes: Sequence[Outcome]) -> dict[str, Score]:
        """Return the score of one language's outputs by the name of every metric."""
        return {metric.name: score(metric, outcomes) for metric in self.metrics}


class Task(Scored):
    """An evaluation and fine-tuning task over text.

    Scores are functions of sums: ``value(statistics(outcomes).sum(axis=0))`` equals
    ``score(outcomes).value`` for the task's first metric. Each of ``metrics`` has the same two
    functions.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The task's name on the command line."""

    @abstractmethod
    def read(self, lang: str, split: Split, data_dir: Path | None) -> list[Any]:
        """Return the examples of one language, in file order."""

    @abstractmethod
    def messages(self, example: Any) -> list[Message]:
        """Return the chat messages that ask for the answer."""

    @abstractmethod
    def answer(self, example: Any) -> str:
        """Return the expected answer."""

    @abstractmethod
    def outcome(self, example: Any, output: str) -> Outcome:
        """Parse one model output; accepts any text."""

    def is_labeled(self, example: Any) -> bool:
        """Whether an example has a gold answer that is not empty."""
        expected = self.outcome(example, "").expected
        return any(not isinstance(item, str) or item.strip() for item in expected)

    def stored_as(self, lang: str, split: Split, data_dir: Path | None) -> str:
        """Return the language whose files are read for a language."""
        return lang

    def check_langs(
        self, langs: Sequence[str], splits: Sequence[Split], data_dir: Path | None
    ) -> None:
        """Check, before data is read, that no examples count twice.

        Args:
            langs: The languages to read.
            splits: The splits to read.
            data_dir: The folder of the data, or None.

        Raises:
            ConfigError: Two names are of one language, or the same files are read for both.
            DataError: A language is unknown.
        """
        for at, lang in enumerate(langs):
            if same := next((other for other in langs[:at] if are_same(lang, other)), None):
                raise ConfigError(
                    f"--langs: {same} and {lang} are the same language",
                    hint="name each language once",
                )
        for split in splits:
            seen: dict[str, str] = {}
            for lang in langs:
                stored = self.stored_as(lang, split, data_dir)
                if (same := seen.setdefault(stored, lang)) != lang:
                    raise ConfigError(
                        f"--langs: the {split} data of {same} and {lang} are the same files, of "
                        f"{stored}",
                        hint="name one of them",
                    )

    def check_metrics(self, examples: Sequence[Any]) -> None:
        """Check, before answers are decoded, that the metrics can score them.

        Raises:
            DataError: A metric does not know the language of an example.
            ResourceError: A tokenizer that a metric needs is missing.
        """
        for example in {example.lang: example for example in examples}.values():
            for metric in self.metrics:
                if (check := getattr(metric, "check", None)) is not None:
                    check([self.outcome(example, "")])


def chat_of(system: str, user: str) -> list[Message]:
    """Return a chat with an optional system message and a user message."""
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": user}]


def text_outcome(output: str, references: Sequence[str], source: str, *, lang: str) -> Outcome:
    """Return the outcome of an output that is compared with references as text."""
    text = without_lone_surrogates(output)  # MeCab and COMET fail on lone surrogates
    return Outcome(text, list(references), int(not text.strip()), source, lang)
