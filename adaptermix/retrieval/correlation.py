"""Correlation of two lists of numbers, with p-values. NumPy only.

The p-values are two-sided, of Student's t with n - 2 degrees of freedom, as SciPy's ``pearsonr``
and ``spearmanr`` give them; for whole degrees of freedom the distribution is a finite sum.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Correlation:
    """A coefficient and its p-value; both are None where one list does not vary."""

    r: float | None
    p_value: float | None


def pearson(first: Sequence[float], second: Sequence[float]) -> Correlation:
    """Return how linearly two lists of three or more numbers go together."""
    if len(first) < 3:
        raise ValueError("a correlation needs three points")
    left, right = (_centered(np.asarray(side, dtype=np.float64)) for side in (first, second))
    scale = float(np.linalg.norm(left) * np.linalg.norm(right))
    if not scale:
        return Correlation(None, None)
    r = min(1.0, max(-1.0, float(left @ right) / scale))
    return Correlation(r, _p_value(r, len(first) - 2))


def spearman(first: Sequence[float], second: Sequence[float]) -> Correlation:
    """Return how well the order of two lists agrees: Pearson's of the ranks, ties averaged."""
    return pearson(*(list(_ranks(np.asarray(side, dtype=np.float64))) for side in (first, second)))


def _centered(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Subtract the mean; values that are all equal become exactly 0."""
    return values - values.mean() if np.ptp(values) else np.zeros_like(values)


def _ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def _p_value(r: float, freedom: int) -> float:
    """Return the chance of a coefficient as far from 0 as ``r`` where nothing goes together.

    Abramowitz and Stegun (1964), 26.7.3 and 26.7.4, with sin = ``|r|``, as t = r sqrt(freedom /
    (1 - r^2)). Below about 1e-15 it is 0.
    """
    sine, cosine = abs(r), math.sqrt(max(0.0, 1 - r * r))
    first = freedom % 2  # powers of the cosine have the parity of the degrees of freedom
    term, total = (cosine if first else 1.0), 0.0
    for power in range(first, freedom - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    within = sine * total
    if first:
        within = 2 / math.pi * (math.asin(sine) + within)
    return min(1.0, max(0.0, 1 - within))
