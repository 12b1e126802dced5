"""Error rates of the choice by language: false and missed merges by the size of the dev data.

The metric is accuracy. In 2 of 8 languages the merges have a gain, in the others they have none.
Three merges compete, whose answers differ less from each other than from the task adapter's. Three
rules are compared: the highest mean; the best merge by its own p-value with Holm's correction over
languages only; and the rule of the search, Holm's correction over languages and merges.

    python benchmarks/routes.py [--searches 200]
"""

import argparse

import numpy as np

from adaptermix.search.routes import permutation_p_values
from adaptermix.tasks.metrics.significance import ALPHA, holm

SIZES = (50, 100, 200, 500, 1000, 2000)
GAINS = (0.03, 0.06)  # of the merges in the two languages with a gain
LANGUAGES, MERGES, TRIALS = 8, 3, 2000
CHANGED = 0.15  # share of answers whose correctness a merge changes
RULES = ("highest mean", "Holm over languages", "Holm over languages and merges")


def accuracy(sums: np.ndarray) -> np.ndarray:
    """Return the share of correct answers."""
    return sums[..., 0] / sums[..., 1]


def simulate(rng: np.random.Generator, size: int, gain: float) -> tuple[np.ndarray, list]:
    """Simulate the statistics of the task adapter and of the merges in one language."""
    task = rng.random(size) < 0.5
    ones, shared = np.ones(size), rng.random(size)
    merges = []
    for _ in range(MERGES):
        luck = np.where(rng.random(size) < 0.7, shared, rng.random(size))
        flips = np.where(task, luck < CHANGED - gain, luck < CHANGED + gain)
        merges.append(np.stack([task ^ flips, ones], axis=1).astype(float))
    return np.stack([task, ones], axis=1).astype(float), merges


def choose(seen: np.ndarray, p_values: np.ndarray, rule: str) -> np.ndarray:
    """Return, by language, whether a rule chooses a merge."""
    best = seen.argmax(axis=1)
    gains = seen.max(axis=1) > 0
    if rule == "highest mean":
        return gains
    if rule == "Holm over languages":
        return gains & (np.array(holm(list(p_values[range(LANGUAGES), best]))) < ALPHA)
    corrected = np.array(holm(list(p_values.ravel()))).reshape(p_values.shape)
    return ((seen > 0) & (corrected < ALPHA)).any(axis=1)


def main() -> None:
    """Print a table of error rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=200)
    searches = parser.parse_args().searches
    print("| dev examples | rule | any false merge | missed, +3 points | missed, +6 points |")
    print("|---|---|---|---|---|")
    for size in SIZES:
        rng = np.random.default_rng(size)
        taken: dict[str, list[np.ndarray]] = {rule: [] for rule in RULES}
        for _ in range(searches):
            gains = [*GAINS, *[0.0] * (LANGUAGES - len(GAINS))]
            data = [simulate(rng, size, gain) for gain in gains]
            seen = np.array([[m[:, 0].mean() - t[:, 0].mean() for m in ms] for t, ms in data])
            found = [permutation_p_values(ms, t, accuracy, TRIALS) for t, ms in data]
            for rule in RULES:
                taken[rule].append(choose(seen, np.array(found), rule))
        for rule in RULES:
            chosen = np.array(taken[rule])
            false = chosen[:, len(GAINS) :].any(axis=1).mean()
            missed = " | ".join(f"{1 - chosen[:, at].mean():.0%}" for at in range(len(GAINS)))
            print(f"| {size:,} | {rule} | {false:.0%} | {missed} |", flush=True)


if __name__ == "__main__":
    main()
