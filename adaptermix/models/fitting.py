"""Process rows in smaller parts if memory does not suffice, and return memory that is free."""

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from adaptermix.errors import ResourceError
from adaptermix.models.blocks import find_blocks

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


def give_back_memory() -> None:
    """Make glibc return unused pages to the system.

    Parts differ slightly in size, so the heap holes that one part leaves do not fit the next. The
    process would grow with the number of parts, although its live data does not. Likewise, the
    backward pass cannot use the holes left by temporary tensors between those of the graph.
    Mapping the pages again costs a few percent of a part's time. When they were returned only
    after every second part, the process grew again.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def give_back_between_blocks(model: Any) -> None:
    """Return unused pages between the blocks of a forward pass with gradients on a CPU.

    A block's temporary tensors leave holes between those of the graph, which the next block
    cannot use. Returned only after the last block, they would add to the peak. A small model
    leaves small holes, and mapping their pages again would take a quarter of its time.
    """
    for block in find_blocks(model):
        block.register_forward_hook(_after_block)


_LARGE_HOLES = 192 * 2**20  # bytes; docs/decisions/answer-logits.md


def _after_block(block: nn.Module, *_: Any) -> None:
    is_on_cpu = next(block.parameters()).device.type == "cpu"
    if torch.is_grad_enabled() and is_on_cpu and unused_heap() > _LARGE_HOLES:
        give_back_memory()


class _MallInfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def unused_heap() -> float:
    """Return how many bytes of the heap are free, with those in pages that were returned.

    Infinity if glibc cannot tell (before 2.33).
    """
    count = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
    if count is None:
        return float("inf")
    count.restype = _MallInfo
    return float(count().fordblks)
