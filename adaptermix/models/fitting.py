"""Process rows in smaller parts if memory does not suffice for all of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from torch import nn

from adaptermix.errors import ResourceError

R = TypeVar("R")
T = TypeVar("T")

Refusal = Callable[[int, RuntimeError], ResourceError]  # from the number of rows that do not fit


def lacks_memory(error: RuntimeError) -> bool:
    """Whether a torch error means that memory ran out."""
    from accelerate.utils.memory import should_reduce_batch_size

    return bool(should_reduce_batch_size(error))


class RowLimit:
    """The number of rows that go through a model together. A size that failed is not retried.

    Attributes:
        rows: Maximum number of rows.
    """

    def __init__(self, rows: int) -> None:
        """Start with the requested limit."""
        self.rows = rows

    def run(
        self,
        count: int,
        attempt: Callable[[int], R],
        refusal: Refusal,
        *,
        undo: Callable[[], None] | None = lambda: None,
    ) -> R:
        """Return the result of the first attempt that fits in memory.

        Args:
            count: Number of rows to process.
            attempt: Does the work with at most the given number of rows per pass.
            refusal: Creates the error if the rows cannot be halved.
            undo: Reverts the effects of a failed attempt; None if they cannot be reverted, so
                that there is no second attempt.

        Raises:
            ResourceError: One row does not fit, or no second attempt is possible.
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
            # Here the error no longer keeps the tensors of the failed attempt alive.
            from accelerate.utils.memory import clear_device_cache

            undo()
            clear_device_cache(garbage_collection=True)

    def parts(
        self, rows: Sequence[T], attempt: Callable[[Sequence[T]], R], refusal: Refusal
    ) -> Iterator[R]:
        """Yield the results of all rows, computed for as many rows at a time as fit."""

        def first(count: int) -> tuple[int, R]:
            return count, attempt(rows[done : done + count])

        done = 0
        while done < len(rows):
            count, made = self.run(len(rows) - done, first, refusal)
            yield made
            done += count


def saved_gradients(model: nn.Module) -> Callable[[], None]:
    """Copy the gradients of the trained parameters, and return a function that restores them.

    A failed backward pass leaves partial gradients. For an adapter, the copy is a thousandth of
    the model's size.
    """
    saved = [
        (p, None if p.grad is None else p.grad.clone())
        for p in model.parameters()
        if p.requires_grad
    ]

    def restore() -> None:
        for parameter, gradient in saved:
            parameter.grad = None if gradient is None else gradient.clone()

    return restore
