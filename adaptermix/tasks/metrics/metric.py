"""The interface of metrics: statistics of each example, and a score of their sum."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from jaxtyping import Float

from adaptermix.errors import ConfigError
from adaptermix.settings.shared import ScorerSettings

Statistics = Float[np.ndarray, "examples stats"]
S = TypeVar("S", bound=ScorerSettings)


@dataclass(frozen=True)
class Outcome:
    """One parsed model output with the expected one.

    Attributes:
        predicted: Slots, entities, BIO tags, or the text itself, depending on the task.
        expected: The same; for text, the references.
        malformed: Number of pieces of the output that could not be parsed.
        source: The sentence to translate.
        lang: The language of a text.
    """

    predicted: Any
    expected: Any
    malformed: int = 0
    source: str = ""
    lang: str = ""

    def as_record(self) -> dict[str, Any]:
        """Return the parsed and the expected output for JSON."""
        return {
            "predicted": _plain(self.predicted),
            "expected": _plain(self.expected),
            "malformed": self.malformed,
        }


def _plain(values: Any) -> Any:
    if isinstance(values, str):
        return values
    return [item._asdict() if hasattr(item, "_asdict") else item for item in values]


@dataclass(frozen=True)
class Score:
    """A score with its signature; on the scale of the metric, 0-1 for F1 and exact match.

    Attributes:
        value: The score.
        signature: What is needed to reproduce the score.
        name: Name of the metric.
        counts: Counts by name, for metrics that name them.
        segments: Score of each example, in the order of the examples.
    """

    value: float
    signature: str
    name: str = "slot_f1"
    counts: Mapping[str, int] = field(default_factory=dict)
    segments: tuple[float, ...] = field(default=(), repr=False)


class Metric(Protocol):
    """A corpus metric with additive statistics."""

    @property
    def name(self) -> str:
        """The metric's name on the command line and in results."""

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Return one row of sufficient statistics per example."""

    def value(self, sums: Float[np.ndarray, "*batch stats"]) -> Float[np.ndarray, "*batch"]:
        """Return the score of summed rows."""

    def signature(self, outcomes: Sequence[Outcome]) -> str:
        """Return how the score is computed."""


def prepare(metric: Metric, groups: Iterable[Sequence[Outcome]]) -> None:
    """Let a metric score several systems and languages at once, if that saves it time."""
    if (own := getattr(metric, "prepare", None)) is not None:
        own(groups)


def score(metric: Metric, outcomes: Sequence[Outcome]) -> Score:
    """Return the metric's score of all outcomes together."""
    rows = metric.statistics(outcomes)
    sums = rows.sum(axis=0)
    names = getattr(metric, "counted", ())
    counts = {name: int(count) for name, count in zip(names, sums, strict=bool(names))}
    segments = tuple(getattr(metric, "segments", metric.value)(rows).tolist())
    return Score(
        float(metric.value(sums)), metric.signature(outcomes), metric.name, counts, segments
    )


def mean_of(sums: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch"]:
    """Return the mean from summed values and counts."""
    mean: Float[np.ndarray, "*batch"] = sums[..., 0] / np.maximum(sums[..., 1], 1)
    return mean


def chosen(metrics: Sequence[Metric], names: Sequence[str], task: str) -> tuple[Metric, ...]:
    """Return the metrics with these names, in this order, or the task's first one without names.

    Raises:
        ConfigError: The task has no such metric.
    """
    known = {metric.name: metric for metric in metrics}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"--metrics: the task {task} has no metric '{unknown[0]}'",
            hint="it has " + ", ".join(known),
        )
    return tuple(known[name] for name in names) or tuple(metrics[:1])
