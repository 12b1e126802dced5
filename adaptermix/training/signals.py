"""Stop a training on a signal, with a checkpoint."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adaptermix.errors import StoppedError


class StopSignals(TrainerCallback):
    """Saves a checkpoint and stops on SIGINT or SIGTERM; a second signal stops immediately."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals while training runs; outside the main thread, do nothing."""
        try:
            old = {n: signal.signal(n, self._receive) for n in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # only the main thread may set handlers
            yield
            return
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Request a checkpoint after a signal; all processes stop at the same step."""
        if args.world_size > 1:
            heard = torch.tensor(self.signal or 0, device=args.device)
            torch.distributed.all_reduce(heard, op=torch.distributed.ReduceOp.MAX)
            self.signal = int(heard) or None
        if self.signal is not None:
            control.should_save = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Stop after a signal, unless training has ended anyway."""
        if self.signal is None or control.should_training_stop:
            return
        name = signal.Signals(self.signal).name
        raise StoppedError(
            f"stopped by {name} after step {state.global_step}; a checkpoint was saved",
            hint="to continue, run the same command with --resume",
            number=self.signal,
        )
