"""Correlation of two lists of numbers, with two-sided p-values."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Correlation:
    """A coefficient and its p-value; both are None if one list is constant."""

    r: float | None
    p_value: float | None


def pearson(first: Sequence[float], second: Sequence[float]) -> Correlation:
    """Return Pearson's correlation of two lists of at least three numbers."""
    return _correlate("pearsonr", first, second)


def spearman(first: Sequence[float], second: Sequence[float]) -> Correlation:
    """Return Spearman's correlation: Pearson's of the ranks, with averaged ties."""
    return _correlate("spearmanr", first, second)


def _correlate(name: str, first: Sequence[float], second: Sequence[float]) -> Correlation:
    from scipy import stats  # the import takes half a second, and few commands need it

    if len(first) < 3:
        raise ValueError("a correlation needs three points")
    if not (np.ptp(first) and np.ptp(second)):
        return Correlation(None, None)
    found = getattr(stats, name)(first, second)
    return Correlation(float(found.statistic), float(found.pvalue))
