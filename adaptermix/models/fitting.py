"""Work on rows that is done in smaller parts where memory does not suffice for all of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from torch import nn

from adaptermix.errors import ResourceError

R = TypeVar("R")
T = TypeVar("T")

Refusal = Callable[[int, RuntimeError], ResourceError]  # of the rows that do not fit


def lacks_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that memory did not suffice."""
    from accelerate.utils.memory import should_reduce_batch_size

    return bool(should_reduce_batch_size(error))


class RowLimit:
    """How many rows go through a model together. What did not fit once is not tried again.

    Attributes:
        rows: At most this many.
    """

    def __init__(self, rows: int) -> None:
        """Start with a limit that was asked for."""
        self.rows = rows

    def run(
        self,
        count: int,
        attempt: Callable[[int], R],
        refusal: Refusal,
        *,
        undo: Callable[[], None] | None = lambda: None,
    ) -> R:
        """Return what the first attempt returns for which memory suffices.

        Args:
            count: Rows that there are to do.
            attempt: Does the work with as many rows in a pass as it is given, at most.
            refusal: Makes the error where the rows cannot be halved.
            undo: Takes back what an attempt that failed has left; None where nothing can, so that
                there is no other attempt.

        Raises:
            ResourceError: One row does not fit, or there can be no other attempt.
        """
        while True:
            rows = min(self.rows, count)
            try:
                return attempt(rows)
            except RuntimeError as error:
                if not lacks_memory(error):
                    raise
                if rows < 2 or undo is None:
                    raise refusal(rows, error) from error
                self.rows = rows // 2
            # Here the attempt that failed is no longer held by its error.
            from accelerate.utils.memory import clear_device_cache

            undo()
            clear_device_cache(garbage_collection=True)

    def parts(
        self, rows: Sequence[T], attempt: Callable[[Sequence[T]], R], refusal: Refusal
    ) -> Iterator[R]:
        """Yield what is made of all rows, of as many of them at a time as fit."""

        def first(count: int) -> tuple[int, R]:
            return count, attempt(rows[done : done + count])

        done = 0
        while done < len(rows):
            count, made = self.run(len(rows) - done, first, refusal)
            yield made
            done += count


def saved_gradients(model: nn.Module) -> Callable[[], None]:
    """Copy the gradients of what is trained; return what puts them back.

    A backward pass that fails leaves half of its own. Of an adapter, the copy is a thousandth of
    the model.
    """
    saved = [(p, None if p.grad is None else p.grad.clone()) for p in _trained(model)]

    def restore() -> None:
        for parameter, gradient in saved:
            parameter.grad = None if gradient is None else gradient.clone()

    return restore


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
