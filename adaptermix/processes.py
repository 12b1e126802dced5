"""The rank of this process, as set by ``torchrun`` and ``accelerate launch``."""

import os


def process_count() -> int:
    """Return the number of processes of the training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_rank() -> int:
    """Return the rank of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this is the process that writes files and prints."""
    return process_rank() == 0


def shards_model() -> bool:
    """Whether the model is sharded over several processes (FSDP)."""
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    return asked and process_count() > 1


def sharding_version() -> int:
    """Return the version of PyTorch's FSDP that accelerate uses, 1 or 2."""
    return int(os.environ.get("FSDP_VERSION", "1"))
