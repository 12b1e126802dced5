"""Compare systems with several seeds with their baselines, from the predictions that eval stores.

    python examples/gemma/compare.py EVAL --langs cy,ja SYSTEM=BASELINE [SYSTEM=BASELINE ...]

Each pair is one seed. Prints the mean difference of slot F1 (macro average over languages) over the
seeds, with a 95% interval from a hierarchical bootstrap: a resample draws seeds, and examples of
each language, which are the same for all systems.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from adaptermix.tasks.metrics.f1 import f1_value, overlap_statistics

SAMPLES = 2000


def main() -> None:
    """Print one line: the mean difference, its interval, and the difference of each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="output of adaptermix eval")
    parser.add_argument("pairs", nargs="+", help="SYSTEM=BASELINE, one for each seed")
    parser.add_argument("--langs", required=True)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    langs = given.langs.split(",")
    systems = [pair.split("=") for pair in given.pairs]
    counts = {
        name: [counts_of(given.folder, name, lang) for lang in langs]
        for name in {name for pair in systems for name in pair}
    }
    seen, drawn = differences(counts, systems, np.random.default_rng(given.seed))
    low, high = np.percentile(drawn, [2.5, 97.5])
    each = ", ".join(f"{value:+.1f}" for value in seen)
    print(f"{np.mean(seen):+.1f} [{low:+.1f}, {high:+.1f}] (by seed: {each})")


def counts_of(folder: Path, system: str, lang: str) -> np.ndarray:
    """Return each example's numbers of correct, predicted and expected slots."""
    path = folder / "predictions" / system / f"{lang}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    predicted, expected = (
        [[key(slot) for slot in row[side]] for row in rows] for side in ("predicted", "expected")
    )
    return overlap_statistics(predicted, expected)


def key(slot: dict[str, str]) -> tuple[str, str]:
    """Return a slot's type and normalized value, as the strict scorer compares them."""
    return slot["type"], " ".join(slot["value"].casefold().split())


def differences(
    counts: dict[str, list[np.ndarray]], systems: list[list[str]], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the difference of each seed and the mean difference of each resample, in percent."""
    once = [np.ones(len(rows)) for rows in counts[systems[0][0]]]
    seen = by_seed(counts, systems, once)
    drawn = []
    for _ in range(SAMPLES):
        weights = [rng.multinomial(len(ones), ones / len(ones)) for ones in once]
        seeds = rng.integers(len(systems), size=len(systems))
        drawn.append(by_seed(counts, systems, weights)[seeds].mean())
    return seen, np.array(drawn)


def by_seed(
    counts: dict[str, list[np.ndarray]], systems: list[list[str]], weights: list[np.ndarray]
) -> np.ndarray:
    """Return the difference of each seed, with examples weighted by their counts."""
    scores = {
        name: np.mean([f1_value(w @ rows) for w, rows in zip(weights, langs, strict=True)])
        for name, langs in counts.items()
    }
    return np.array([100 * (scores[system] - scores[baseline]) for system, baseline in systems])


if __name__ == "__main__":
    main()
