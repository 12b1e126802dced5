"""How far a command is: the one event that all of them send, and what receives it."""

from collections.abc import Callable, Iterable
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
        note: What to know before the work goes on; then the rest says nothing.
    """

    stage: str
    done: int
    total: int | None
    detail: str = ""
    note: str = ""


OnProgress = Callable[[Progress], None]


def tell(on_progress: OnProgress, notes: Iterable[str]) -> None:
    """Send notes ahead of the work that they are about."""
    for note in notes:
        on_progress(Progress("", 0, None, note=note))


def with_notes_once(on_progress: OnProgress) -> OnProgress:
    """Return what passes events on, and each note only the first time."""
    sent: set[str] = set()

    def pass_on(progress: Progress) -> None:
        if progress.note not in sent:
            on_progress(progress)
        if progress.note:
            sent.add(progress.note)

    return pass_on


def ignore(progress: Progress) -> None:
    """Take no note of an event."""
