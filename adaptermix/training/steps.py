"""How long a training is. Without torch, so that plans can count before anything is loaded."""

import math

from adaptermix.settings.training import TrainSettings


def planned_steps(settings: TrainSettings, rows: int) -> int:
    """Return the optimizer steps of the whole run, at most, by the rows of an epoch."""
    return settings.max_steps or math.ceil(settings.epochs * math.ceil(rows / settings.batch_size))
