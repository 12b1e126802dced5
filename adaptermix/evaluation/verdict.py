"""The result of an evaluation in words: one sentence per system."""

from collections.abc import Sequence

from adaptermix.adapters.systems import BASE
from adaptermix.evaluation.comparison import ALL, Comparison
from adaptermix.tables import ends_shown, shown, titled

_NAMED = 6  # languages in a sentence; more are counted


def verdicts(comparisons: Sequence[Comparison], metric: str, row: str = "language") -> list[str]:
    """Say whether each system, except the base model, is better than the baseline.

    Args:
        comparisons: All comparisons with the baseline; those over all languages decide.
        metric: Name of the metric that was compared.
        row: Kind of the rows of the tables: language, or task for lm-eval.
    """
    means = [c for c in comparisons if c.over == ALL and c.system != BASE]
    return [_verdict(mean, comparisons, metric, row) for mean in means]


def points_of(metric: str) -> str:
    """Return the unit of a difference: ``points of slot F1``."""
    return f"points of {titled(metric).removesuffix(' (%)')}"


def better_and_worse(named: Sequence[tuple[str, Comparison]], of: str) -> str:
    """Name what is significantly better, and what is worse; empty if neither is.

    Args:
        named: Comparisons by the name to use for them.
        of: What follows a number if there are too many to name: `` of 12 languages``.
    """
    parts = []
    for what, sign in (("better", 1), ("worse", -1)):
        names = [name for name, c in named if c.is_sure and c.difference * sign > 0]
        if len(names) > _NAMED:
            parts.append(f"{what} in {len(names)}{of}")
        elif names:
            parts.append(f"{what} in {', '.join(names)}")
    return ", ".join(parts)


def _verdict(mean: Comparison, comparisons: Sequence[Comparison], metric: str, row: str) -> str:
    outcome = "not significantly different from"
    if mean.is_sure:
        outcome = "better than" if mean.difference > 0 else "worse than"
    seen, (low, high) = shown(metric, mean.difference, "+"), ends_shown(metric, mean.low, mean.high)
    text = f"{mean.system} is {outcome} {mean.baseline}: {seen} [{low}, {high}] {points_of(metric)}"
    if len(mean.langs) < 2:
        return text
    alone = [(c.over, c) for c in comparisons if c.system == mean.system and c.over in mean.langs]
    single = better_and_worse(alone, f" of {len(mean.langs)} {row}s")
    single = single or f"no single {row} differs significantly"
    return f"{text} on average over {len(mean.langs)} {row}s; {single}"
