"""Metrics: sums of statistics of examples, the score of such a sum, and how to compute it again.

Every metric counts each example by itself (``statistics``) and scores a sum of these rows
(``value``), so that the score of any resample of the examples costs one sum.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import chain, count
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from jaxtyping import Bool, Float

from adaptermix.comet import (
    DEFAULT_MODEL,
    INSTALL_HINT,
    CometScores,
    Translations,
    segment_scores_many,
    status,
)
from adaptermix.entities import Entity
from adaptermix.errors import ConfigError, ResourceError
from adaptermix.settings.shared import ScorerSettings
from adaptermix.tagging import Slot
from adaptermix.translation import bleu_tokenizer
from adaptermix.version import __version__

Statistics = Float[np.ndarray, "examples stats"]
S = TypeVar("S", bound=ScorerSettings)


@dataclass(frozen=True)
class Outcome:
    """What one model output was read as, beside what was expected.

    Attributes:
        predicted: Slots, entities, BIO tags, or the text itself, as the task has it.
        expected: The same; for text, the references.
        malformed: How many pieces of the output could not be read.
        source: The sentence that was to be translated.
        lang: The language of a text.
    """

    predicted: Any
    expected: Any
    malformed: int = 0
    source: str = ""
    lang: str = ""

    def as_record(self) -> dict[str, Any]:
        """Return what was read and what was expected, for JSON."""
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
        signature: How to compute it again.
        name: Name of the metric.
        counts: What was counted, where the metric counts something by name.
        segments: Every example's own score, in the order of the examples.
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
        """Name on the command line and in results."""

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Return one row of sufficient statistics an example."""

    def value(self, sums: Float[np.ndarray, "*batch stats"]) -> Float[np.ndarray, "*batch"]:
        """Return the score of sums of rows."""

    def signature(self, outcomes: Sequence[Outcome]) -> str:
        """Say how the score is computed."""


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


# F1 -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OverlapF1:
    """Micro F1 over items; each predicted item matches one expected item of its example at most.

    Attributes:
        name: Name of the metric.
        rule: The part of the signature that says when two items are the same.
        key: What of an item is compared.
    """

    name: str
    rule: str
    key: Callable[[Any], Hashable]
    counted = ("correct", "predicted", "expected")

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Count correct, predicted and expected items."""
        predicted = ([self.key(item) for item in o.predicted] for o in outcomes)
        expected = ([self.key(item) for item in o.expected] for o in outcomes)
        return overlap_statistics(predicted, expected)

    def value(self, sums: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch"]:
        """Return 2 correct / (predicted + expected); 1 where both are 0."""
        return f1_value(sums)

    def signature(self, outcomes: Sequence[Outcome]) -> str:
        """Say what is compared, and how."""
        return f"{self.name}|avg:micro|{self.rule}|version:{__version__}"


def slot_key(slot: Slot) -> tuple[str, str]:
    """Return a slot's type and its value, case-folded with white space normalized."""
    return slot.type, " ".join(slot.value.casefold().split())


def entity_text_key(entity: Entity) -> tuple[str, str]:
    """Return an entity's type and its text with white space normalized."""
    return entity.type, " ".join(entity.text.split())


def entity_offset_key(entity: Entity) -> tuple[str, int | None, int | None]:
    """Return an entity's type and where it starts and ends."""
    return entity.type, entity.start, entity.end


SLOT_F1 = OverlapF1("slot_f1", "match:type+value|repeats:counted|case:fold|space:norm", slot_key)
ENTITY_F1 = {
    "text": OverlapF1(
        "entity_f1", "match:type+text|repeats:counted|case:mixed|space:norm", entity_text_key
    ),
    "offsets": OverlapF1("entity_f1", "match:type+start+end|repeats:counted", entity_offset_key),
}


def overlap_statistics(
    predicted: Iterable[Iterable[Hashable]], expected: Iterable[Iterable[Hashable]]
) -> Float[np.ndarray, "examples 3"]:
    """Count correct, predicted and expected items, one row an example.

    A predicted item is correct when it equals an expected item of the same example that no other
    predicted item has taken; so what is not there, or is said too often, is a false positive.
    """
    rows = []
    for guesses, golds in zip(predicted, expected, strict=True):
        found, wanted = Counter(guesses), Counter(golds)
        rows.append(((found & wanted).total(), found.total(), wanted.total()))
    return np.array(rows, dtype=float).reshape(-1, 3)


def f1_value(sums: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch"]:
    """Return 2 correct / (predicted + expected) from sums of counts; 1 where both are 0."""
    total = sums[..., 1] + sums[..., 2]
    return np.where(total > 0, 2 * sums[..., 0] / np.maximum(total, 1), 1.0)


@dataclass(frozen=True)
class SpanF1:
    """Micro F1 over the spans of BIO tags, as seqeval 1.2.2 computes it: 0 where none is right."""

    name: str = "slot_f1"
    rule: str = "scorer:paper|spans:bio"
    counted = ("correct", "predicted", "expected")

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Count correct, predicted and expected spans."""
        return span_statistics([o.predicted for o in outcomes], [o.expected for o in outcomes])

    def value(self, sums: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch"]:
        """Return the harmonic mean of precision and recall, rounded in seqeval's order."""
        correct, predicted, expected = (sums[..., column] for column in range(3))
        precision = correct / np.maximum(predicted, 1)
        recall = correct / np.maximum(expected, 1)
        both = precision + recall
        return np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1), 0.0)

    def signature(self, outcomes: Sequence[Outcome]) -> str:
        """Say what is compared, and how."""
        return f"{self.name}|avg:micro|{self.rule}|version:{__version__}"


def span_statistics(
    predicted: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]
) -> Float[np.ndarray, "examples 3"]:
    """Count correct, predicted and expected spans of BIO tags, one row a sentence.

    A span is a ``B-`` tag and the ``I-`` tags of its type that follow; an ``I-`` tag that
    continues nothing begins a span, as in conlleval and seqeval. All sentences are one array, so
    that the work is done without a loop over tags.

    Args:
        predicted: The tags of every sentence.
        expected: The same, of the same lengths.

    Raises:
        ValueError: Lengths differ.
    """
    lengths = np.fromiter(map(len, expected), int, len(expected))
    if len(predicted) != len(expected) or [*map(len, predicted)] != lengths.tolist():
        raise ValueError("predicted and expected tags differ in length")
    ends = lengths.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    first = np.zeros(total + 1, dtype=bool)
    first[ends - lengths] = True
    numbers: defaultdict[str, int] = defaultdict(count().__next__)  # tags, as they come
    codes = [
        np.fromiter(map(numbers.__getitem__, chain.from_iterable(side)), int, total)
        for side in (predicted, expected)
    ]
    types = {type_: code for code, type_ in enumerate({tag[2:] for tag in numbers}, start=1)}
    type_of = np.array([0 if tag == "O" else types[tag[2:]] for tag in numbers], dtype=int)
    begins = np.array([tag.startswith("B-") for tag in numbers], dtype=bool)
    guessed, gold = (_Spans.of(type_of[side], begins[side], first[:-1]) for side in codes)
    at = np.flatnonzero(guessed.starts & gold.starts & (guessed.types == gold.types))
    correct = at[guessed.ends_of(at) == gold.ends_of(at)]
    columns = (correct, np.flatnonzero(guessed.starts), np.flatnonzero(gold.starts))
    rows = [
        np.bincount(np.searchsorted(ends, where, side="right"), minlength=len(lengths))
        for where in columns
    ]
    return np.stack(rows, axis=1).astype(float)


@dataclass(frozen=True)
class _Spans:
    """Spans in one long array of tags: where they start, their types, where tags change."""

    starts: Bool[np.ndarray, " tags"]
    types: np.ndarray
    breaks: np.ndarray

    @classmethod
    def of(cls, types: np.ndarray, begins: np.ndarray, first: np.ndarray) -> "_Spans":
        """Find the spans; ``types`` is 0 outside."""
        breaks = begins | first
        breaks[1:] |= types[1:] != types[:-1]
        return cls(breaks & (types > 0), types, np.append(np.flatnonzero(breaks), len(types)))

    def ends_of(self, starts: np.ndarray) -> np.ndarray:
        """Return where the spans that start there end: at the next break."""
        ends: np.ndarray = self.breaks[np.searchsorted(self.breaks, starts, side="right")]
        return ends


# Text ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExactMatch:
    """Share of outputs that equal an expected text, white space normalized."""

    name: str = "exact_match"
    counted = ("correct", "total")

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Return 1 where the text is one of those expected, beside 1."""
        rows = [
            (" ".join(o.predicted.split()) in {" ".join(text.split()) for text in o.expected}, 1)
            for o in outcomes
        ]
        return np.array(rows, dtype=float).reshape(-1, 2)

    def value(self, sums: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch"]:
        """Return the mean."""
        return _mean(sums)

    def signature(self, outcomes: Sequence[Outcome]) -> str:
        """Say what is compared, and how."""
        return f"{self.name}|case:mixed|space:norm|version:{__version__}"


@dataclass(frozen=True)
class SacreMetric:
    """BLEU or chrF, computed by sacreBLEU.

    Attributes:
        name: ``bleu`` or ``chrf``.
        tokenize: sacreBLEU's name of BLEU's tokenizer, or ``auto``: that of the texts' language.
    """

    name: str
    tokenize: str = "auto"

    def _scorer(self, outcomes: Sequence[Outcome]) -> Any:
        tokenizer = self.tokenize
        if tokenizer == "auto" and self.name == "bleu":
            lang = outcomes[0].lang if outcomes else ""
            tokenizer = bleu_tokenizer(lang) if lang else "13a"
        return _sacrebleu(self.name, tokenizer)

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Return sacreBLEU's statistics of every segment.

        All outcomes must be of one language and have as many references.
        """
        scorer = self._scorer(outcomes)
        width = scorer.order * 3 if self.name == "chrf" else 2 + 2 * scorer.max_ngram_order
        if not outcomes:
            return np.zeros((0, width))
        references = list(zip(*(o.expected for o in outcomes), strict=True))
        hypotheses = [o.predicted for o in outcomes]
        return np.array(scorer._extract_corpus_statistics(hypotheses, references), dtype=float)

    def value(self, sums: Float[np.ndarray, "*batch stats"]) -> Float[np.ndarray, "*batch"]:
        """Return sacreBLEU's score of every sum, 0 to 100."""
        return _sacre_values(_sacrebleu(self.name, "none"), sums)

    def segments(self, rows: Statistics) -> Float[np.ndarray, " examples"]:
        """Return sacreBLEU's sentence scores; BLEU's have the effective order, as its own do."""
        return _sacre_values(_sacrebleu(self.name, "none", effective_order=True), rows)

    def signature(self, outcomes: Sequence[Outcome]) -> str:
        """Return sacreBLEU's own signature."""
        scorer = self._scorer(outcomes)
        scorer.num_refs = len(outcomes[0].expected) if outcomes else 0
        return str(scorer.get_signature().format())


def _sacre_values(
    scorer: Any, sums: Float[np.ndarray, "*batch stats"]
) -> Float[np.ndarray, "*batch"]:
    rows = sums.reshape(-1, sums.shape[-1]).tolist()
    scores = [scorer._compute_score_from_stats(row).score for row in rows]
    return np.array(scores).reshape(sums.shape[:-1])


@cache
def _sacrebleu(name: str, tokenizer: str, *, effective_order: bool = False) -> Any:
    from sacrebleu.metrics import BLEU, CHRF

    if name == "chrf":
        return CHRF()
    try:  # some tokenizers come with packages of their own
        return BLEU(tokenize=tokenizer, force=True, effective_order=effective_order)
    except (ImportError, RuntimeError) as error:
        raise ResourceError(
            f"BLEU's tokenizer {tokenizer} is not installed",
            hint='pip install "sacrebleu[ja,ko]"',
        ) from error


@dataclass(frozen=True)
class Comet:
    """COMET: the mean of segment scores of a learned metric, against the first reference."""

    model: str = DEFAULT_MODEL
    python: Path | None = None
    name: str = "comet"

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Return every segment's score beside 1."""
        if not outcomes:
            return np.zeros((0, 2))
        scores = self._scored(outcomes).segments[0]
        return np.array([(value, 1) for value in scores], dtype=float)

    def value(self, sums: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch"]:
        """Return the mean."""
        return _mean(sums)

    def signature(self, outcomes: Sequence[Outcome]) -> str:
        """Return what COMET was and ran on."""
        return self._scored(outcomes).signature

    def _scored(self, outcomes: Sequence[Outcome]) -> CometScores:
        segments = tuple((o.source, o.predicted, o.expected[0]) for o in outcomes)
        return _comet(segments, self.model, self.python)


def without_missing_comet(settings: S) -> tuple[S, list[str]]:
    """Leave COMET out where it is not installed and other metrics are asked for as well.

    Returns:
        The settings, and what to tell the user.

    Raises:
        ResourceError: COMET is all that is asked for, and is not installed.
    """
    others = tuple(metric for metric in settings.metrics if metric != "comet")
    if others == settings.metrics or settings.comet_python or status().installed:
        return settings, []
    if not others:
        raise ResourceError("COMET is not installed", hint=INSTALL_HINT)
    note = f"COMET is not installed and is left out: {INSTALL_HINT}"
    return settings.model_copy(update={"metrics": others}), [note]


@lru_cache(maxsize=256)  # scores, signatures and comparisons ask for the same segments
def _comet(
    segments: tuple[tuple[str, str, str], ...], model: str, python: Path | None
) -> CometScores:
    sides = Translations(*zip(*segments, strict=True))
    return segment_scores_many([sides], model=model, python=python)


def _mean(sums: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch"]:
    mean: Float[np.ndarray, "*batch"] = sums[..., 0] / np.maximum(sums[..., 1], 1)
    return mean


def chosen(metrics: Sequence[Metric], names: Sequence[str], task: str) -> tuple[Metric, ...]:
    """Return the metrics of these names, in this order; the task's first one without names.

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
