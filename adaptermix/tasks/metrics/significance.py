"""How sure a difference between two systems is: paired bootstrap resampling. NumPy only.

A corpus score here is a function of sums: every example has a row of sufficient statistics, and
the score of a set of examples is ``value(sum of their rows)``. Resampling then costs one matrix
product for any metric that is built so: F1 (correct, predicted, expected), BLEU and chrF (n-gram
matches), a mean (value, 1).

The procedure is sacreBLEU's paired bootstrap (Koehn 2004; its ``significance.py``), with the same
resamples for all systems, and its interval and p-value.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

SAMPLES = 1000
SEED = 12345  # sacreBLEU's
Statistics = Float[np.ndarray, "examples stats"]
# From sums [..., stats] to scores [...].
Value = Callable[[Float[np.ndarray, "*batch stats"]], Float[np.ndarray, "*batch"]]


@dataclass(frozen=True)
class Interval:
    """A value and the interval that holds 95% of its bootstrap resamples."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero is outside: a difference that is not chance."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference:
    """How much better a system is than the one it is compared with.

    Attributes:
        interval: The difference of scores, system minus baseline.
        p_value: Share of resamples whose absolute difference exceeds its mean by more than the
            difference seen, as sacreBLEU computes it; 1 where no resample shows any, of which
            the procedure would say 1 / (samples + 1).
    """

    interval: Interval
    p_value: float


def resample_counts(
    groups: Sequence[int], samples: int = SAMPLES, seed: int = SEED
) -> list[Int[np.ndarray, "samples group"]]:
    """Draw, for every group of examples, how often each example is in each resample.

    Groups (languages) are resampled apart, so that each keeps its size in every resample. A
    single group gives the resamples that sacreBLEU draws from the same seed.

    Args:
        groups: Number of examples of each group.
        samples: Number of resamples.
        seed: Seed of the generator.
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
    """Return the macro average over groups of the score of every resample.

    Args:
        statistics: For every group, one row of sufficient statistics an example.
        value: The metric, from sums to scores.
        counts: What ``resample_counts`` drew for groups of these sizes.
    """
    scores = [value(drawn @ rows) for drawn, rows in zip(counts, statistics, strict=True)]
    average: Float[np.ndarray, " samples"] = np.mean(scores, axis=0)
    return average


def macro_score(statistics: Sequence[Statistics], value: Value) -> float:
    """Return the mean over groups of the score of all examples of a group."""
    return float(np.mean([value(rows.sum(axis=0)) for rows in statistics]))


def interval(value: float, scores: Float[np.ndarray, " samples"]) -> Interval:
    """Return the value with the bounds that leave one resample in forty out on either side."""
    ordered = np.sort(scores)
    out = len(ordered) // 40
    return Interval(value, float(ordered[out]), float(ordered[-out - 1]))


def paired_difference(
    system: Sequence[Statistics],
    baseline: Sequence[Statistics],
    value: Value,
    counts: Sequence[Int[np.ndarray, "samples group"]] | None = None,
) -> Difference:
    """Compare two systems on the same examples, group by group in the same order.

    Args:
        system: The statistics of the system, one array a group.
        baseline: Those of the system it is compared with.
        value: The metric, from sums to scores.
        counts: Resamples to use; drawn with sacreBLEU's seed by default.
    """
    if counts is None:
        counts = resample_counts([len(rows) for rows in system])
    seen = macro_score(system, value) - macro_score(baseline, value)
    drawn = resampled_scores(system, value, counts) - resampled_scores(baseline, value, counts)
    sizes = np.abs(drawn)
    if not (seen or sizes.any()):
        return Difference(interval(seen, drawn), 1.0)
    exceeding = int(np.sum(sizes - sizes.mean() > abs(seen)))
    return Difference(interval(seen, drawn), (exceeding + 1) / (len(drawn) + 1))
