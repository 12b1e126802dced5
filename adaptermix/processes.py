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


def shards_model() -> bool:
    """Whether each of several processes holds a part of the model only (FSDP)."""
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    return asked and process_count() > 1


def sharding_version() -> int:
    """Return which of PyTorch's two ways of sharding accelerate takes."""
    return int(os.environ.get("FSDP_VERSION", "1"))
