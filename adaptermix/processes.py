"""Which of several processes this one is, as ``torchrun`` and ``accelerate launch`` say it."""

import os


def process_count() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_rank() -> int:
    """Return which of them this one is, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this is the process that writes files and talks."""
    return process_rank() == 0
