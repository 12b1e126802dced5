"""Hold out, resample and balance examples."""

import random
from collections.abc import Sequence

from adaptermix.files.text import T


def hold_out(rows: Sequence[T], most: int, rng: random.Random) -> tuple[list[T], list[T]]:
    """Split rows at random into what is kept and what is held out: a tenth, ``most`` at most."""
    order = rng.sample(range(len(rows)), len(rows))
    count = min(most, max(1, len(rows) // 10))
    held = set(order[:count])
    kept = [row for index, row in enumerate(rows) if index not in held]
    return kept, [rows[index] for index in sorted(held)]


def resample_evenly(groups: Sequence[Sequence[T]], rng: random.Random) -> list[T]:
    """Repeat the rows of the smaller groups until each group is as large as the largest."""
    return resample(groups, 0.0, rng)


def resample(groups: Sequence[Sequence[T]], exponent: float, rng: random.Random) -> list[T]:
    """Repeat rows until each group's share grows with its size to the power of the exponent.

    An exponent of 0 gives all groups the size of the largest, 1 leaves them as they are, and
    values between are the temperature sampling of multilingual pretraining (Conneau & Lample,
    2019). Each group is repeated whole as often as it fits, and filled up by rows drawn without
    replacement, so that no row occurs more than once more than another of its group.
    """
    largest = max(len(group) for group in groups)
    rows: list[T] = []
    for group in groups:
        size = round(largest * (len(group) / largest) ** exponent)
        whole, rest = divmod(size, len(group))
        rows.extend([*group] * whole + rng.sample(list(group), rest))
    rng.shuffle(rows)
    return rows
