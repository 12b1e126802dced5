"""Compare systems with several seeds with their baselines, from the predictions that eval stores.

    python examples/gemma/compare.py EVAL --langs cy,ja SYSTEM=BASELINE [SYSTEM=BASELINE ...]

Each pair is one seed. Prints the mean difference of slot F1 (macro average over languages) over the
seeds, with a 95% interval from a hierarchical bootstrap: a resample draws seeds, and examples of
each language, which are the same for all systems. With --csv and --group, the comparison and those
of single languages are added to a file that picture.py reads.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

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
    parser.add_argument("--csv", type=Path, help="file to add the comparisons to")
    parser.add_argument("--group", default="all", help="name of the languages in the file")
    given = parser.parse_args()
    langs = given.langs.split(",")
    systems = [pair.split("=") for pair in given.pairs]
    row = compared(given.folder, systems, langs, given.seed)
    each = ", ".join(f"{value:+.1f}" for value in row.pop("by_seed"))
    seen, low, high = (100 * row[name] for name in ("difference", "low", "high"))
    print(f"{seen:+.1f} [{low:+.1f}, {high:+.1f}] (by seed: {each})")
    if given.csv:
        singles = [compared(given.folder, systems, [lang], given.seed) for lang in langs]
        add_rows(given.csv, [*singles, row | {"over": given.group}])


def compared(folder: Path, systems: list[list[str]], langs: list[str], seed: int) -> dict[str, Any]:
    """Return the means over seeds of systems and baselines, their difference and its interval."""
    names = {name for pair in systems for name in pair}
    counts = {name: [counts_of(folder, name, lang) for lang in langs] for name in names}
    seen, drawn = differences(counts, systems, np.random.default_rng(seed))
    low, high = np.percentile(drawn, [2.5, 97.5]) / 100
    scores = macro_f1(counts, [np.ones(len(rows)) for rows in counts[systems[0][0]]])
    return {
        "system": systems[0][0].rpartition("-")[0] or systems[0][0],
        "baseline": systems[0][1],
        "over": langs[0],
        "langs": " ".join(langs),
        "score": np.mean([scores[system] for system, _ in systems]),
        "baseline_score": np.mean([scores[baseline] for _, baseline in systems]),
        "difference": np.mean(seen) / 100,
        "low": low,
        "high": high,
        "excludes_zero": low > 0 or high < 0,
        "by_seed": seen,
    }


def add_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to a CSV file, with a header if it is new."""
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        names = [name for name in rows[0] if name != "by_seed"]
        writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def counts_of(folder: Path, system: str, lang: str) -> np.ndarray:
    """Return each example's numbers of correct, predicted and expected slots."""
    path = folder / "predictions" / system / f"{lang}.jsonl"
    with path.open(encoding="utf-8") as lines:  # splitlines() also splits at U+2028
        rows = [json.loads(line) for line in lines]
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
    scores = macro_f1(counts, weights)
    return np.array([100 * (scores[system] - scores[baseline]) for system, baseline in systems])


def macro_f1(
    counts: dict[str, list[np.ndarray]], weights: list[np.ndarray]
) -> dict[str, np.floating]:
    """Return the macro average over languages of each system."""
    return {
        name: np.mean([f1_value(w @ rows) for w, rows in zip(weights, langs, strict=True)])
        for name, langs in counts.items()
    }


if __name__ == "__main__":
    main()
