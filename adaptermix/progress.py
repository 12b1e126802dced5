"""Progress events, which are the same for all commands, and their callbacks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """The progress of a command.

    Attributes:
        stage: The current stage.
        done: Number of completed units of the stage: steps, answers, or sentences. It starts
            again at a smaller number when other work begins.
        total: Total number of units of this work; None if unknown.
        detail: A measurement to show with it, such as the loss or the speed.
        note: A note for the user; if it is set, the other attributes have no meaning.
    """

    stage: str
    done: int
    total: int | None
    detail: str = ""
    note: str = ""


OnProgress = Callable[[Progress], None]


def tell(on_progress: OnProgress, notes: Iterable[str]) -> None:
    """Send notes before the work that they are about."""
    for note in notes:
        on_progress(Progress("", 0, None, note=note))


def with_notes_once(on_progress: OnProgress) -> OnProgress:
    """Return a callback that forwards events, and each note only once."""
    sent: set[str] = set()

    def pass_on(progress: Progress) -> None:
        if progress.note not in sent:
            on_progress(progress)
        if progress.note:
            sent.add(progress.note)

    return pass_on


def ignore(progress: Progress) -> None:
    """Ignore an event."""
