"""Shuffle parallel text as a placebo: each sentence gets the translation of another one.

    python examples/gemma/shuffle_pairs.py PAIRS_DIR OUT PAIR... [--limit N] [--seed N]

Pairs are read and cleaned as in `adaptermix train-align`, and the first N of a language are
shuffled among each other: training with `--limit N` then sees the same sentences on both sides.
"""

import argparse
import random
from itertools import islice
from pathlib import Path

from adaptermix.data.pairs import PairPlace, read_clean_pairs


def main() -> None:
    """Write OUT/PAIR.tsv for each language pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs_dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("pairs", nargs="+")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    for pair in given.pairs:
        clean = read_clean_pairs(
            pair, PairPlace(given.pairs_dir), several_sentences=False, check_script=True
        ).kept
        rows = [(row.source, row.target) for row in islice(clean, given.limit)]
        lines = ["\t".join(row) + "\n" for row in shuffled(rows, random.Random(given.seed))]
        (given.out / f"{pair}.tsv").write_text("".join(lines), encoding="utf-8")
        print(f"{pair}: {len(rows)} pairs")


def shuffled(rows: list[tuple[str, str]], rng: random.Random) -> list[tuple[str, str]]:
    """Return the sentences in order, none with a translation that it has in the rows."""
    sources, targets = [row[0] for row in rows], [row[1] for row in rows]
    rng.shuffle(targets)
    true = set(rows)
    for _ in range(100):
        wrong = [at for at, row in enumerate(zip(sources, targets, strict=True)) if row in true]
        if not wrong:
            return list(zip(sources, targets, strict=True))
        for at in wrong:
            other = rng.randrange(len(rows))
            targets[at], targets[other] = targets[other], targets[at]
    raise SystemExit("error: too few different pairs to shuffle")


if __name__ == "__main__":
    main()
