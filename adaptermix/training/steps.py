"""The number of steps of a training run. Without torch, so that plans need not load it."""

import math

from adaptermix.settings.training import TrainSettings


def planned_steps(settings: TrainSettings, rows: int) -> int:
    """Return the maximum number of optimizer steps of a run with this many rows per epoch."""
    return settings.max_steps or math.ceil(settings.epochs * math.ceil(rows / settings.batch_size))
