"""Span F1 compared with seqeval's: the same tags, the same score, and the time of each.

The tags are those of MASSIVE's test rows in 20 locales, or without the files, of as many rows with
similar made-up tags. A random fifth of the predicted tags is changed, so that there are wrong spans
and broken sequences.

    python benchmarks/span_f1.py [FOLDER_OF_MASSIVE]
"""

import random
import sys
import time
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table
from seqeval.metrics import f1_score

from adaptermix.tasks.massive import read_massive_file
from adaptermix.tasks.metrics.f1 import SpanF1, span_statistics
from adaptermix.tasks.slots import bio_tags, label_gold

LOCALES = 20
ROWS = 2974
RUNS = 5

Tags = list[list[str]]


def read_tags(folder: Path) -> dict[str, Tags]:
    """Return the gold tags by locale, for all locales in the folder."""
    tags = {}
    for path in sorted(folder.glob("*.jsonl.gz"))[:LOCALES]:
        locale = path.name.split(".")[0]
        rows = read_massive_file(path, locale, "test")
        tags[locale] = [
            bio_tags(label_gold(row.utterance, row.annotated, locale).labels) for row in rows
        ]
    return tags


def make_tags(rng: random.Random) -> dict[str, Tags]:
    """Return made-up tags: 7 words per row, one in four in a slot of one of 55 types."""
    types = ["Other"] * 165 + [f"type_{number}" for number in range(55)]
    return {
        f"made-{number:02}": [bio_tags(rng.choices(types, k=7)) for _ in range(ROWS)]
        for number in range(LOCALES)
    }


def changed(gold: Tags, rng: random.Random) -> Tags:
    """Replace a random fifth of the tags by other tags of the same language."""
    known = sorted({tag for row in gold for tag in row})
    return [[rng.choice(known) if rng.random() < 0.2 else tag for tag in row] for row in gold]


def main() -> None:
    """Time both on all locales and print a table."""
    warnings.simplefilter("ignore")
    rng = random.Random(0)
    tags = read_tags(Path(sys.argv[1])) if len(sys.argv) > 1 else make_tags(rng)
    metric = SpanF1()
    table = Table("locale", "rows", "tags", "F1 (%)", "seqeval (s)", "adaptermix (s)", "times")
    totals = [0.0, 0.0]
    for locale, gold in tags.items():
        predicted = changed(gold, rng)
        best = [float("inf")] * 2
        for _ in range(RUNS):
            began = time.perf_counter()
            reference = f1_score(gold, predicted)
            between = time.perf_counter()
            own = float(metric.value(span_statistics(predicted, gold).sum(axis=0)))
            ended = time.perf_counter()
            best = [min(best[0], between - began), min(best[1], ended - between)]
        if own != reference:
            raise SystemExit(f"{locale}: {own} is not seqeval's {reference}")
        totals = [total + seconds for total, seconds in zip(totals, best, strict=True)]
        table.add_row(
            locale,
            f"{len(gold):,}",
            f"{sum(map(len, gold)):,}",
            f"{100 * own:.2f}",
            f"{best[0]:.3f}",
            f"{best[1]:.4f}",
            f"{best[0] / best[1]:.0f}",
        )
    table.add_section()
    rows, words = (
        sum(map(len, tags.values())),
        sum(len(row) for gold in tags.values() for row in gold),
    )
    ratio = f"{totals[0] / totals[1]:.0f}"
    table.add_row(
        "all", f"{rows:,}", f"{words:,}", "", f"{totals[0]:.3f}", f"{totals[1]:.4f}", ratio
    )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
