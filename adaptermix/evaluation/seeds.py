"""Systems of several seeds: mean and spread over the seeds, with intervals over seeds and examples.

The interval is that of a hierarchical bootstrap. A resample draws as many seeds as there are, with
replacement, and examples of each language, which are the same for all systems and seeds. Two
systems of the same seeds are compared seed by seed: a merge of seed 1 holds the task adapter of
seed 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from adaptermix.adapters.seeds import SEEDED, several_seeds
from adaptermix.evaluation.comparison import ALL
from adaptermix.tasks.metrics.significance import (
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

_DIGITS = 12  # means of equal scores differ in later ones


@dataclass(frozen=True)
class OverSeeds:
    """One system of several seeds, on a language, a group of them or all.

    Attributes:
        system: Its name without the seed.
        seeds: The seeds.
        over: A language, the name of a group, or ``macro average`` for all languages.
        langs: The languages that are averaged.
        scores: Its score with each seed.
        mean: Their mean.
        deviation: Their standard deviation (n - 1).
        low: Lower end of the mean's interval.
        high: Upper end.
        baseline: What it is compared with; None for the baseline itself.
        difference: Its mean less the baseline's.
        difference_low: Lower end of the difference's interval.
        difference_high: Upper end.
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
    """The members of one system: a single one, or one for each seed."""

    name: str
    members: Mapping[int, str]
    picks: Int[np.ndarray, "samples seeds"]  # by resample, the places of the seeds that it draws


def over_seeds(
    statistics: Mapping[str, Mapping[str, Statistics]],
    value: Value,
    baseline: str,
    groups: Mapping[str, Sequence[str]],
) -> list[OverSeeds]:
    """Sum up each system of several seeds, and compare it with the baseline.

    Args:
        statistics: By system and language, one row of sufficient statistics an example; the
            examples are the same for all systems.
        value: The metric, from sums to scores.
        baseline: Name of the system that the others are compared with; one with a seed stands for
            all seeds that are there of it.
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
                deviation=round(float(np.std(scores, ddof=1)), _DIGITS),
                low=bounds.low,
                high=bounds.high,
            )
            if family.name != reference.name:
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
    """Return the systems of several seeds; those of the same seeds draw the same ones."""
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
    """Return all seeds of the baseline, or the one system that it is."""
    seeded = SEEDED.fullmatch(baseline)
    alone = _Family(baseline, {0: baseline}, np.zeros((SAMPLES, 1), dtype=int))
    return next((f for f in families if seeded and f.name == seeded[1]), alone)


def _scores(
    family: _Family,
    statistics: Mapping[str, Mapping[str, Statistics]],
    langs: Sequence[str],
    value: Value,
) -> list[float]:
    """Return the score of every seed, averaged over languages."""
    members = family.members.values()
    return [macro_score([statistics[name][lang] for lang in langs], value) for name in members]


def _mean(scores: Sequence[float]) -> float:
    return round(float(np.mean(scores)), _DIGITS)


def _draws(
    family: _Family,
    drawn: Mapping[tuple[str, str], Float[np.ndarray, " samples"]],
    langs: Sequence[str],
) -> Float[np.ndarray, " samples"]:
    """Return for every resample the mean score of the seeds that it draws."""
    members = family.members.values()
    by_seed = np.stack([np.mean([drawn[n, lang] for lang in langs], axis=0) for n in members], 1)
    picked = np.take_along_axis(by_seed, family.picks, axis=1)
    means: Float[np.ndarray, " samples"] = np.round(picked.mean(axis=1), _DIGITS)
    return means
