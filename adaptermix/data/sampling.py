"""Hold out, resample and balance examples."""

import random
from collections.abc import Sequence

from adaptermix.files.text import T


def hold_out(rows: Sequence[T], most: int, rng: random.Random) -> tuple[list[T], list[T]]:
    """Split rows at random into kept and held-out ones; a tenth is held out, at most ``most``."""
    order = rng.sample(range(len(rows)), len(rows))
    count = min(most, max(1, len(rows) // 10))
    held = set(order[:count])
    kept = [row for index, row in enumerate(rows) if index not in held]
    return kept, [rows[index] for index in sorted(held)]


def resample_evenly(groups: Sequence[Sequence[T]], rng: random.Random) -> list[T]:
    """Repeat the rows of the smaller groups until each group is as large as the largest."""
    return resample(groups, 0.0, rng)


def resample(groups: Sequence[Sequence[T]], exponent: float, rng: random.Random) -> list[T]:
    """Repeat rows so that each group's size is proportional to its old size to the ``exponent``.

    An exponent of 0 makes all groups as large as the largest, 1 leaves them unchanged, and values
    between give the temperature sampling of multilingual pretraining (Conneau & Lample, 2019). Each
    group is repeated whole as often as possible, and the rest is drawn without replacement. So the
    counts of a group's rows differ by at most 1.
    """
    largest = max(len(group) for group in groups)
    rows: list[T] = []
    for group in groups:
        size = round(largest * (len(group) / largest) ** exponent)
        whole, rest = divmod(size, len(group))
        rows.extend([*group] * whole + rng.sample(list(group), rest))
    rng.shuffle(rows)
    return rows
