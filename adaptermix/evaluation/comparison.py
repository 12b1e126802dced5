"""Systems against a baseline on the same examples: differences with intervals and p-values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adaptermix.tasks.metrics.significance import (
    SEED,
    Statistics,
    Value,
    macro_score,
    paired_difference,
    resample_counts,
)

ALL = "macro average"


@dataclass(frozen=True)
class Comparison:
    """How much better one system is than the baseline, on one language or group of them.

    Attributes:
        system: The system.
        baseline: What it is compared with.
        over: A language, the name of a group, or ``macro average`` for all languages.
        langs: The languages that are averaged.
        score: The system's score, macro-averaged over the languages.
        baseline_score: The baseline's.
        difference: ``score - baseline_score``.
        low: Lower end of the difference's 95% interval.
        high: Upper end.
        p_value: From the paired bootstrap, not corrected for the number of comparisons.
        excludes_zero: Whether zero is outside of the interval.
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


def compare(
    statistics: Mapping[str, Mapping[str, Statistics]],
    value: Value,
    baseline: str,
    groups: Mapping[str, Sequence[str]],
) -> list[Comparison]:
    """Compare every other system with the baseline, on each language, each group, and all.

    A language has sacreBLEU's resamples, whatever other languages are there. In averages, the
    languages are resampled apart from each other, each with a seed of its own.

    Args:
        statistics: By system and language, one row of sufficient statistics an example; the
            examples are the same for all systems.
        value: The metric, from sums to scores.
        baseline: Name of the system that the others are compared with.
        groups: Languages by the name of their group.
    """
    langs = list(statistics[baseline])
    sizes = {lang: len(rows) for lang, rows in statistics[baseline].items()}
    counts = {
        # As small numbers: for 52 languages of 3,000 examples they would fill a gigabyte.
        lang: resample_counts([sizes[lang]], seed=SEED + 1 + at)[0].astype(np.int16)
        for at, lang in enumerate(langs)
    }
    found = []
    for over, members in [*((lang, [lang]) for lang in langs), *groups.items(), (ALL, langs)]:
        if len(members) == 1:
            drawn = resample_counts([sizes[members[0]]])
        else:
            drawn = [counts[lang] for lang in members]
        reference = [statistics[baseline][lang] for lang in members]
        for system in statistics:
            if system != baseline:
                rows = [statistics[system][lang] for lang in members]
                seen = paired_difference(rows, reference, value, drawn)
                found.append(
                    Comparison(
                        system=system,
                        baseline=baseline,
                        over=over,
                        langs=list(members),
                        score=macro_score(rows, value),
                        baseline_score=macro_score(reference, value),
                        difference=seen.interval.value,
                        low=seen.interval.low,
                        high=seen.interval.high,
                        p_value=seen.p_value,
                        excludes_zero=seen.interval.excludes_zero,
                    )
                )
    return found
