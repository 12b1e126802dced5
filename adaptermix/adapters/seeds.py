"""Names of systems with several seeds: ``task-seed-1``, ``task-seed-2``."""

import re
from collections.abc import Iterable

SEEDED = re.compile(r"(.+)-seed-(\d+)")


def with_seed(name: str, seed: int) -> str:
    """Return a system's name with a seed."""
    return f"{name}-seed-{seed}"


def seed_families(names: Iterable[str]) -> dict[str, dict[int, str]]:
    """Return the systems with a seed in their name, by the name without seed and by seed."""
    families: dict[str, dict[int, str]] = {}
    for name in names:
        if found := SEEDED.fullmatch(name):
            families.setdefault(found[1], {})[int(found[2])] = name
    return families


def several_seeds(names: Iterable[str]) -> dict[str, dict[int, str]]:
    """Return the ``seed_families`` with at least two seeds."""
    return {name: seeds for name, seeds in seed_families(names).items() if len(seeds) > 1}
