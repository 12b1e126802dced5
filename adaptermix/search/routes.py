"""Choose an adapter for every language: the task adapter, or a merge with a significant gain.

A paired permutation test compares every merge with the task adapter in every language. Holm's
correction covers all these tests, over languages and merges. It therefore accounts for picking the
best of several merges: the chance that any language gets a merge without a true gain is at most 5%.
The percentile bootstrap does not hold that level on few examples: with 4 differences of one sign
among 50 examples it gives p = 0.03, and the exact p-value is 0.125.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from adaptermix.tasks.metrics.significance import (
    ALPHA,
    SEED,
    TRIALS,
    Difference,
    Statistics,
    Value,
    holm,
    macro_score,
    paired_difference,
)

_STEP = 1000  # trials at a time
_ROUNDING = 1e-12  # differences that are equal up to rounding


@dataclass(frozen=True)
class Evidence:
    """The comparison of a merge with the task adapter in one language.

    Attributes:
        candidate: The merge's name.
        score: Its score on the dev examples.
        difference: Its score minus the task adapter's, with the bootstrap's 95% interval and the
            permutation test's uncorrected two-sided p-value.
        p_holm: The p-value after Holm's correction over languages and merges.
    """

    candidate: str
    score: float
    difference: Difference
    p_holm: float

    @property
    def is_gain(self) -> bool:
        """Whether the merge is significantly better."""
        return self.difference.interval.value > 0 and self.p_holm < ALPHA


@dataclass(frozen=True)
class Route:
    """The adapter of one language.

    Attributes:
        chosen: Name of the merge, or None for the task adapter.
        task_score: The task adapter's score, or None without dev data.
        examples: Number of dev examples.
        evidence: All merges, best score first.
    """

    chosen: str | None
    task_score: float | None
    examples: int
    evidence: list[Evidence]


def choose_routes(
    task: Mapping[str, Statistics],
    merges: Mapping[str, Mapping[str, Statistics]],
    value: Value,
    prefer: Literal["simpler", "best"],
) -> dict[str, Route]:
    """Choose for every language; a language without dev examples gets the task adapter.

    Args:
        task: The task adapter's statistics by language, one row per example.
        merges: The merges' statistics on the same examples, by merge and language.
        value: Computes the metric from summed statistics.
        prefer: ``simpler`` takes a merge only if its gain is significant, ``best`` takes the
            highest score.
    """
    langs = [lang for lang, rows in task.items() if len(rows)]
    trials = max(TRIALS, 40 * len(langs) * len(merges))
    tests = {
        lang: permutation_p_values(
            [of_langs[lang] for of_langs in merges.values()], task[lang], value, trials
        )
        for lang in langs
    }
    corrected = iter(holm([p_value for lang in langs for p_value in tests[lang]]))
    routes = {lang: Route(None, None, 0, []) for lang in task}
    for lang in langs:
        evidence = [
            Evidence(
                name, macro_score([rows], value), Difference(gain.interval, p), next(corrected)
            )
            for (name, rows), gain, p in (
                ((name, merges[name][lang]), _gain(merges[name][lang], task[lang], value), p)
                for name, p in zip(merges, tests[lang], strict=True)
            )
        ]
        evidence.sort(key=lambda found: -found.score)
        score = macro_score([task[lang]], value)
        may = [e for e in evidence if (e.is_gain if prefer == "simpler" else e.score > score)]
        routes[lang] = Route(may[0].candidate if may else None, score, len(task[lang]), evidence)
    return routes


def _gain(merge: Statistics, task: Statistics, value: Value) -> Difference:
    return paired_difference([merge], [task], value)


def permutation_p_values(
    systems: Sequence[Statistics], baseline: Statistics, value: Value, trials: int = TRIALS
) -> list[float]:
    """Return two-sided p-values of systems against one baseline by a paired permutation test.

    A trial swaps the answers to a random half of the examples, the same examples for all systems.
    p is the share of trials, including the observed one, whose absolute difference is at least the
    observed difference. This is valid for any number of examples and any metric computed from
    sums, up to Monte Carlo error. sacreBLEU's test does not count ties, which are most of the
    trials if few answers differ.
    """
    rng = np.random.default_rng(SEED)
    total = baseline.sum(axis=0)
    changes = [np.asarray(rows - baseline, dtype=np.float64) for rows in systems]
    seen = [float(abs(value(total + change.sum(axis=0)) - value(total))) for change in changes]
    as_large = np.ones(len(systems), dtype=int)
    for start in range(0, trials, _STEP):
        size = (min(_STEP, trials - start), len(baseline))
        swaps = rng.integers(2, size=size).astype(np.float64)
        for at, change in enumerate(changes):
            moved: Float[np.ndarray, "trials stats"] = swaps @ change
            drawn = value(total + change.sum(axis=0) - moved) - value(total + moved)
            as_large[at] += int(np.sum(np.abs(drawn) >= seen[at] - _ROUNDING))
    return [float(count) / (trials + 1) for count in as_large]
