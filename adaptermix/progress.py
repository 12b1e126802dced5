"""How far a command is: the one event that all of them send, and what receives it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a command is.

    Attributes:
        stage: What it does now.
        done: Units of the stage that are done: steps, answers, sentences. They start again at a
            smaller number where other work begins.
        total: All units of this work; None where that is not known.
        detail: A measurement to show beside it, such as the loss or the speed.
    """

    stage: str
    done: int
    total: int | None
    detail: str = ""


OnProgress = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Take no note of an event."""
