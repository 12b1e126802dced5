"""Compare systems with a baseline on the same examples: differences, intervals and p-values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Literal

import numpy as np

from adaptermix.tasks.metrics.metric import Metric
from adaptermix.tasks.metrics.significance import (
    ALPHA,
    SEED,
    TRIALS,
    Drawn,
    Procedure,
    Statistics,
    Value,
    bootstrap_samples,
    differing,
    holm,
    least_p,
    macro_score,
    percentile,
    randomization,
    resample_counts,
    resampled_scores,
    sacrebleu_bootstrap,
    sacrebleu_randomization,
    swapped_scores,
    with_least_p,
    without_noise,
)
from adaptermix.tasks.metrics.text import SacreMetric
from adaptermix.version import __version__

ALL = "macro average"
# By test: its name, the name of its interval, and the function for interval and p-value.
_TESTS: dict[str, tuple[str, str, Procedure]] = {
    "bootstrap": ("paired bootstrap", "95% interval", percentile),
    "sacrebleu-bootstrap": (
        "sacreBLEU's paired bootstrap",
        "interval of the test",
        sacrebleu_bootstrap,
    ),
    "randomization": ("paired approximate randomization", "interval of the test", randomization),
    "sacrebleu-randomization": (
        "sacreBLEU's paired approximate randomization",
        "interval of the test",
        sacrebleu_randomization,
    ),
}


@dataclass(frozen=True)
class PairedTest:
    """The test that compares systems.

    Attributes:
        kind: The kind of test.
        samples: Number of resamples.
        signature: Everything needed to repeat the test.
    """

    kind: Literal["bootstrap", "randomization", "sacrebleu-bootstrap", "sacrebleu-randomization"]
    samples: int
    signature: str

    @classmethod
    def of(cls, test: Literal["bootstrap", "ar"], metric: Metric, langs: int) -> "PairedTest":
        """Return the test for a metric on a number of languages."""
        is_sacre = isinstance(metric, SacreMetric)
        by = (
            f"by:sacrebleu|version:{version('sacrebleu')}" if is_sacre else f"version:{__version__}"
        )
        samples = TRIALS if test == "ar" else bootstrap_samples(langs)
        key = "ar" if test == "ar" else "bs"
        signature = f"{metric.name}|{key}:{samples}|seed:{SEED}|correction:holm|{by}"
        if test == "ar":
            return cls(
                "sacrebleu-randomization" if is_sacre else "randomization", samples, signature
            )
        return cls("sacrebleu-bootstrap" if is_sacre else "bootstrap", samples, signature)

    @property
    def name(self) -> str:
        """Name of the test."""
        return _TESTS[self.kind][0]

    @property
    def interval(self) -> str:
        """Name of its interval."""
        return _TESTS[self.kind][1]

    @property
    def procedure(self) -> Procedure:
        """Function that computes interval and p-value from resamples."""
        return _TESTS[self.kind][2]

    def draw(
        self, systems: Mapping[str, Statistics], baseline: str, value: Value, seed: int
    ) -> dict[str, Drawn]:
        """Return, for every other system, its scores and the baseline's on all resamples."""
        reference = systems[baseline]
        others = {name: rows for name, rows in systems.items() if name != baseline}
        if self.kind in ("randomization", "sacrebleu-randomization"):
            return {
                name: swapped_scores(rows, reference, value, self.samples, seed)
                for name, rows in others.items()
            }
        counts = resample_counts([len(reference)], self.samples, seed)
        scores = resampled_scores([reference], value, counts)
        return {n: (resampled_scores([rows], value, counts), scores) for n, rows in others.items()}


@dataclass(frozen=True)
class Comparison:
    """The difference of a system to the baseline, on one language or a group of languages.

    Attributes:
        system: Name of the system.
        baseline: Name of the baseline.
        over: A language, the name of a group, or ``macro average`` for all languages.
        langs: The languages in the average.
        score: The system's score, macro-averaged over the languages.
        baseline_score: The baseline's score, averaged in the same way.
        difference: ``score - baseline_score``.
        low: Lower end of the difference's interval.
        high: Upper end of the difference's interval.
        p_value: Two-sided p-value, not corrected for the number of comparisons.
        excludes_zero: Whether zero is outside the interval, which means p < 0.05.
        p_holm: For a language, and a group of one, the p-value after Holm's correction over the
            system's languages; None for averages, which are not corrected.
    """

    system: str
    baseline: str
    over: str
    langs: list[str]
    score: float
    baseline_score: float
    difference: float
    low: float
    high: float
    p_value: float
    excludes_zero: bool
    p_holm: float | None = None

    @property
    def is_sure(self) -> bool:
        """Whether the difference is significant after the correction, and is marked with a star."""
        return (self.p_value if self.p_holm is None else self.p_holm) < ALPHA


def compare(
    statistics: Mapping[str, Mapping[str, Statistics]],
    value: Value,
    baseline: str,
    groups: Mapping[str, Sequence[str]],
    test: PairedTest,
) -> list[Comparison]:
    """Compare every other system with the baseline, on each language, each group, and all.

    For a single language, the resamples are sacreBLEU's, independent of the other languages. For
    averages, each language is resampled independently, with its own seed.

    Args:
        statistics: By system and language, sufficient statistics with one row per example; the
            examples are the same for all systems.
        value: Computes the metric from summed statistics.
        baseline: Name of the baseline.
        groups: Languages by the name of their group.
        test: The test.
    """
    langs = list(statistics[baseline])
    alone, apart = {}, {}
    for at, lang in enumerate(langs):
        rows = {system: of_langs[lang] for system, of_langs in statistics.items()}
        alone[lang] = test.draw(rows, baseline, value, SEED)
        apart[lang] = test.draw(rows, baseline, value, SEED + 1 + at)
    found = []
    for over, members in [*((lang, [lang]) for lang in langs), *groups.items(), (ALL, langs)]:
        drawn = alone if len(members) == 1 else apart
        reference = macro_score([statistics[baseline][lang] for lang in members], value)
        for system in statistics:
            if system != baseline:
                score = macro_score([statistics[system][lang] for lang in members], value)
                sides = [drawn[lang][system] for lang in members]
                first, second = (np.mean(side, axis=0) for side in zip(*sides, strict=True))
                seen = test.procedure(*without_noise(score - reference, first - second))
                # Answers that differ but are wrong in both systems cannot show a difference.
                able = [
                    lang
                    for lang, (one, other) in zip(members, sides, strict=True)
                    if (one != other).any()
                ]
                both = (statistics[name] for name in (system, baseline))
                answers = differing(*([rows[lang] for lang in able] for rows in both))
                # sacreBLEU's p-values are kept if so many answers can show a difference.
                if test.kind == "bootstrap" or least_p(answers) >= ALPHA:
                    seen = with_least_p(seen, answers)
                found.append(
                    Comparison(
                        system=system,
                        baseline=baseline,
                        over=over,
                        langs=list(members),
                        score=score,
                        baseline_score=reference,
                        difference=seen.interval.value,
                        low=seen.interval.low,
                        high=seen.interval.high,
                        p_value=seen.p_value,
                        excludes_zero=seen.interval.excludes_zero,
                    )
                )
    return _corrected(found, langs)


def _corrected(found: Sequence[Comparison], langs: Sequence[str]) -> list[Comparison]:
    """Add p-values after Holm's correction over the languages of each system.

    A group of one language repeats the row of the language, so it has the same p-values.
    """
    corrected = {}
    for system in dict.fromkeys(c.system for c in found):
        mine = [c for c in found if c.system == system and c.over in langs]
        for comparison, p_value in zip(mine, holm([c.p_value for c in mine]), strict=True):
            corrected[system, *comparison.langs] = p_value
    return [replace(c, p_holm=corrected.get((c.system, *c.langs))) for c in found]
