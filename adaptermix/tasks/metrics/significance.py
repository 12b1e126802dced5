"""Resampling tests for the difference between two systems. NumPy only.

A corpus score here is a function of sums: every example has a row of sufficient statistics, and
the score of a set of examples is ``value(sum of their rows)``. Resampling then costs one matrix
product for every metric of this form: F1 (correct, predicted, expected), BLEU and chrF (n-gram
matches), a mean (value, 1).

There are four procedures. In each, the interval and the p-value come from the same resamples, and
the interval excludes zero exactly if p is below 0.05:

- ``percentile``: bootstrap, 95% percentile interval, two-sided p-value (Efron and Tibshirani 1993);
  corrected by ``with_least_p`` if few answers differ.
- ``randomization``: approximate randomization (Noreen 1989).
- ``sacrebleu_bootstrap``: sacreBLEU's paired bootstrap (Koehn 2004; its ``significance.py``).
- ``sacrebleu_randomization``: sacreBLEU's paired approximate randomization (Riezler and Maxwell
  2005).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

SAMPLES = 1000  # bootstrap resamples; sacreBLEU's default
TRIALS = 10_000  # trials of approximate randomization; sacreBLEU's default
SEED = 12345  # sacreBLEU's default
ALPHA = 0.05
_ROUNDING = 1e-12  # relative tolerance for differences that are equal up to rounding
DIGITS = 12  # means of equal scores differ beyond these
Statistics = Float[np.ndarray, "examples stats"]
# Computes scores [...] from summed statistics [..., stats].
Value = Callable[[Float[np.ndarray, "*batch stats"]], Float[np.ndarray, "*batch"]]


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero is outside the interval, so that a difference is significant."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference:
    """The difference between a system and the baseline.

    Attributes:
        interval: The difference of scores, system minus baseline.
        p_value: Two-sided; below 0.05 exactly if the interval excludes zero.
    """

    interval: Interval
    p_value: float


# Scores of two systems in every resample, [samples] each.
Drawn = tuple[Float[np.ndarray, " samples"], Float[np.ndarray, " samples"]]
# Computes the interval and p-value from the observed difference and the resampled ones.
Procedure = Callable[[float, Float[np.ndarray, " samples"]], Difference]


def resample_counts(
    groups: Sequence[int], samples: int = SAMPLES, seed: int = SEED
) -> list[Int[np.ndarray, "samples group"]]:
    """Draw how often each example occurs in each resample, group by group.

    Groups (languages) are resampled separately, so that each keeps its size in every resample. A
    single group gives the resamples that sacreBLEU draws from the same seed.

    Args:
        groups: Number of examples of each group.
        samples: Number of resamples.
        seed: Seed of the random generator.
    """
    rng = np.random.default_rng(seed)
    counts = []
    for size in groups:
        drawn = rng.choice(size, size=(samples, size), replace=True)
        rows = np.arange(samples)[:, None] * size
        flat = np.bincount((drawn + rows).ravel(), minlength=samples * size)
        counts.append(flat.reshape(samples, size))
    return counts


def resampled_scores(
    statistics: Sequence[Statistics],
    value: Value,
    counts: Sequence[Int[np.ndarray, "samples group"]],
) -> Float[np.ndarray, " samples"]:
    """Return the score of every resample, macro-averaged over groups.

    Args:
        statistics: Sufficient statistics by group, one row per example.
        value: Computes the metric from summed statistics.
        counts: Output of ``resample_counts`` for groups of these sizes.
    """
    scores = [value(drawn @ rows) for drawn, rows in zip(counts, statistics, strict=True)]
    average: Float[np.ndarray, " samples"] = np.mean(scores, axis=0)
    return average


def macro_score(statistics: Sequence[Statistics], value: Value) -> float:
    """Return the mean over groups of each group's corpus score."""
    return float(np.mean([value(rows.sum(axis=0)) for rows in statistics]))


def without_noise(
    seen: float, drawn: Float[np.ndarray, " samples"]
) -> tuple[float, Float[np.ndarray, " samples"]]:
    """Round differences of averages, so that those of equal averages are zero.

    Languages that cancel leave 1e-17, which tests would count as better or worse.
    """
    return round(seen, DIGITS), np.round(drawn, DIGITS)


def interval(value: float, scores: Float[np.ndarray, " samples"]) -> Interval:
    """Return the value with bounds that exclude one resample in forty on either side."""
    ordered = np.sort(scores)
    out = len(ordered) // 40
    return Interval(value, float(ordered[out]), float(ordered[-out - 1]))


def percentile(seen: float, drawn: Float[np.ndarray, " samples"]) -> Difference:
    """Test a difference with its bootstrap resamples.

    p is twice the number of resamples on the rarer side of zero, but at least 1, divided by
    (samples + 1). So p < 0.05 if at most one resample in forty is on that side, which is the share
    that ``interval`` excludes.
    """
    beyond = min(int(np.sum(drawn <= 0)), int(np.sum(drawn >= 0)))
    return Difference(interval(seen, drawn), min(1.0, max(2 * beyond, 1) / (len(drawn) + 1)))


def sacrebleu_bootstrap(seen: float, drawn: Float[np.ndarray, " samples"]) -> Difference:
    """Test a difference with its bootstrap resamples, as sacreBLEU does.

    p is the share of resamples whose absolute difference exceeds the mean absolute difference by
    more than the observed absolute difference.
    """
    sizes = np.abs(drawn)
    return _tested(seen, sizes - sizes.mean())


def sacrebleu_randomization(seen: float, drawn: Float[np.ndarray, " samples"]) -> Difference:
    """Test a difference against pseudo-systems with swapped answers, as sacreBLEU does.

    p is the share of trials whose absolute difference is larger than the observed one.
    """
    return _tested(seen, np.abs(drawn))


def randomization(seen: float, drawn: Float[np.ndarray, " samples"]) -> Difference:
    """Test a difference against pseudo-systems with swapped answers.

    p is the share of trials whose absolute difference is at least as large as the observed one.
    Ties count: if a score counts few correct answers, many trials have exactly that difference.
    """
    return _tested(seen, np.abs(drawn), with_ties=True)


def _tested(
    seen: float, statistics: Float[np.ndarray, " samples"], *, with_ties: bool = False
) -> Difference:
    """Return a test's p-value with the interval that the same test implies.

    The interval is the observed difference plus or minus the largest one with p >= 0.05. Systems
    with equal scores do not differ: p is 1, although sacreBLEU may report 1 / (samples + 1).
    """
    total = len(statistics) + 1
    least = abs(seen) * (1 - _ROUNDING)
    beyond = statistics >= least if with_ties else statistics > abs(seen)
    p_value = (int(np.sum(beyond)) + 1) / total if seen else 1.0
    allowed = sum((count + 1) / total < ALPHA for count in range(len(statistics)))
    critical = float(np.sort(statistics)[::-1][max(allowed - 1, 0)])
    if p_value < ALPHA:  # a difference equal to the critical one is rejected
        critical = min(critical, float(np.nextafter(abs(seen), 0)))
    else:
        critical = max(critical, abs(seen))
    critical = max(critical, 0.0)
    return Difference(Interval(seen, seen - critical, seen + critical), p_value)


def differing(system: Sequence[Statistics], baseline: Sequence[Statistics]) -> int:
    """Return the number of examples on which the statistics of two systems differ."""
    pairs = zip(system, baseline, strict=True)
    return sum(int((rows != others).any(axis=-1).sum()) for rows, others in pairs)


def least_p(examples: int) -> float:
    """Return the minimum p-value of swapping answers, if so many examples differ."""
    return min(1.0, 2.0 ** (1 - examples))


def with_least_p(found: Difference, examples: int) -> Difference:
    """Raise p to the minimum that swapping answers can give, and widen the interval to match.

    If n examples differ, at least one swap in 2 ** (n - 1) is as extreme as the observed
    difference. The bootstrap ignores this: with 4 differences of one sign among 50 examples, it
    gives p = 0.03.

    Args:
        found: Result of the bootstrap.
        examples: Number of examples that differ.
    """
    least = least_p(examples)
    if found.p_value >= least:
        return found
    bounds = found.interval
    if least >= ALPHA:
        bounds = replace(bounds, low=min(bounds.low, 0.0), high=max(bounds.high, 0.0))
    return Difference(bounds, least)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979), to bound the family-wise error."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[at]))
        corrected[at] = largest
    return corrected


def bootstrap_samples(comparisons: int) -> int:
    """Return how many resamples allow a p-value below 0.05 after Holm's correction.

    The smallest p-value is 1 / (samples + 1), and it is multiplied by the number of comparisons.
    """
    return max(SAMPLES, 40 * comparisons)


def swapped_scores(
    system: Statistics, baseline: Statistics, value: Value, trials: int = TRIALS, seed: int = SEED
) -> Drawn:
    """Return the scores of pseudo-systems that swap the answers to a random half of the examples.

    With sacreBLEU's seed, trials and statistics, these equal sacreBLEU's scores.
    """
    swaps = np.random.default_rng(seed).integers(2, size=(trials, len(system)), dtype=bool)
    step = 1000  # trials at a time, because the product is in float64
    parts = [
        (value(some @ baseline + ~some @ system), value(~some @ baseline + some @ system))
        for some in (swaps[at : at + step] for at in range(0, trials, step))
    ]
    first, second = (np.concatenate(side) for side in zip(*parts, strict=True))
    return first, second


def paired_difference(
    system: Sequence[Statistics],
    baseline: Sequence[Statistics],
    value: Value,
    counts: Sequence[Int[np.ndarray, "samples group"]] | None = None,
) -> Difference:
    """Compare two systems by percentile bootstrap, on the same examples in the same groups.

    Args:
        system: Statistics of the system, one array per group.
        baseline: Statistics of the baseline, one array per group.
        value: Computes the metric from summed statistics.
        counts: Resamples to use; by default drawn with sacreBLEU's seed.
    """
    if counts is None:
        counts = resample_counts([len(rows) for rows in system])
    seen = macro_score(system, value) - macro_score(baseline, value)
    drawn = resampled_scores(system, value, counts) - resampled_scores(baseline, value, counts)
    found = percentile(*without_noise(seen, drawn))
    return with_least_p(found, differing(system, baseline))
