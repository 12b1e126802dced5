"""Systems with several seeds: mean and spread over seeds, with intervals over seeds and examples.

The interval comes from a hierarchical bootstrap. A resample draws, with replacement, as many seeds
as there are, and examples of each language, which are the same for all systems and seeds. Systems
with the same seeds are compared seed by seed, because a merge of seed 1 contains the task adapter
of seed 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from adaptermix.adapters.seeds import SEEDED, several_seeds
from adaptermix.evaluation.comparison import ALL
from adaptermix.tasks.metrics.significance import (
    DIGITS,
    SAMPLES,
    SEED,
    Interval,
    Statistics,
    Value,
    interval,
    macro_score,
    resample_counts,
    resampled_scores,
)


@dataclass(frozen=True)
class OverSeeds:
    """The summary of a system with several seeds, on a language, a group or all languages.

    Attributes:
        system: Name of the system without the seed.
        seeds: The seeds.
        over: A language, the name of a group, or ``macro average`` for all languages.
        langs: The languages in the average.
        scores: Scores by seed.
        mean: Mean of the scores.
        deviation: Standard deviation of the scores (n - 1).
        low: Lower end of the mean's interval.
        high: Upper end of the mean's interval.
        baseline: Name of the baseline; None for the baseline itself.
        difference: The mean minus the baseline's mean.
        difference_low: Lower end of the difference's interval.
        difference_high: Upper end of the difference's interval.
    """

    system: str
    seeds: list[int]
    over: str
    langs: list[str]
    scores: list[float]
    mean: float
    deviation: float
    low: float
    high: float
    baseline: str | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None

    @property
    def is_sure(self) -> bool:
        """Whether the interval of its difference excludes zero."""
        if self.difference is None or self.difference_low is None or self.difference_high is None:
            return False
        return Interval(self.difference, self.difference_low, self.difference_high).excludes_zero


@dataclass(frozen=True)
class _Family:
    """The members of one system: a single one, or one per seed."""

    name: str
    members: Mapping[int, str]
    picks: Int[np.ndarray, "samples seeds"]  # by resample, the indices of the drawn seeds


def over_seeds(
    statistics: Mapping[str, Mapping[str, Statistics]],
    value: Value,
    baseline: str,
    groups: Mapping[str, Sequence[str]],
) -> list[OverSeeds]:
    """Summarize each system with several seeds, and compare it with the baseline.

    Args:
        statistics: By system and language, sufficient statistics with one row per example; the
            examples are the same for all systems.
        value: Computes the metric from summed statistics.
        baseline: Name of the baseline; a name with a seed stands for all seeds of that system.
        groups: Languages by the name of their group.
    """
    families = _families(list(statistics))
    if not families:
        return []
    reference = _reference(baseline, families)
    langs = list(statistics[baseline])
    needed = {name for f in (*families, reference) for name in f.members.values()}
    drawn: dict[tuple[str, str], Float[np.ndarray, " samples"]] = {}
    for at, lang in enumerate(langs):
        counts = resample_counts([len(statistics[baseline][lang])], SAMPLES, SEED + 1 + at)
        for name in needed:
            drawn[name, lang] = resampled_scores([statistics[name][lang]], value, counts)
    overs = [*((lang, [lang]) for lang in langs), *groups.items(), (ALL, langs)]
    found = []
    for over, members in overs:
        their_scores = _scores(reference, statistics, members, value)
        their_draws = _draws(reference, drawn, members)
        for family in families:
            scores = _scores(family, statistics, members, value)
            mean, draws = _mean(scores), _draws(family, drawn, members)
            bounds = interval(mean, draws)
            row = OverSeeds(
                system=family.name,
                seeds=list(family.members),
                over=over,
                langs=list(members),
                scores=scores,
                mean=mean,
                deviation=round(float(np.std(scores, ddof=1)), DIGITS),
                low=bounds.low,
                high=bounds.high,
            )
            if family is not reference:
                gain = interval(mean - _mean(their_scores), draws - their_draws)
                row = replace(
                    row,
                    baseline=reference.name,
                    difference=gain.value,
                    difference_low=gain.low,
                    difference_high=gain.high,
                )
            found.append(row)
    return found


def _families(systems: Sequence[str]) -> list[_Family]:
    """Return the systems with several seeds; those with the same seeds share their draws."""
    picks: dict[tuple[int, ...], Int[np.ndarray, "samples seeds"]] = {}
    found = []
    for name, by_seed in several_seeds(systems).items():
        members = dict(sorted(by_seed.items()))
        seeds = tuple(members)
        if seeds not in picks:
            rng = np.random.default_rng([SEED, *seeds])
            picks[seeds] = rng.integers(len(seeds), size=(SAMPLES, len(seeds)))
        found.append(_Family(name, members, picks[seeds]))
    return found


def _reference(baseline: str, families: Sequence[_Family]) -> _Family:
    """Return the baseline's family with all its seeds, or with its only system."""
    seeded = SEEDED.fullmatch(baseline)
    alone = _Family(baseline, {0: baseline}, np.zeros((SAMPLES, 1), dtype=int))
    return next((f for f in families if seeded and f.name == seeded[1]), alone)


def _scores(
    family: _Family,
    statistics: Mapping[str, Mapping[str, Statistics]],
    langs: Sequence[str],
    value: Value,
) -> list[float]:
    """Return the scores by seed, averaged over languages."""
    members = family.members.values()
    return [macro_score([statistics[name][lang] for lang in langs], value) for name in members]


def _mean(scores: Sequence[float]) -> float:
    return round(float(np.mean(scores)), DIGITS)


def _draws(
    family: _Family,
    drawn: Mapping[tuple[str, str], Float[np.ndarray, " samples"]],
    langs: Sequence[str],
) -> Float[np.ndarray, " samples"]:
    """Return the mean score of the drawn seeds, by resample."""
    members = family.members.values()
    by_seed = np.stack([np.mean([drawn[n, lang] for lang in langs], axis=0) for n in members], 1)
    picked = np.take_along_axis(by_seed, family.picks, axis=1)
    means: Float[np.ndarray, " samples"] = np.round(picked.mean(axis=1), DIGITS)
    return means
