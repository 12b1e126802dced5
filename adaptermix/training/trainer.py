"""transformers' Trainer with atomic checkpoints, named batches and a fallback for low memory.

Checkpoints are written in a hidden folder and renamed when they are complete, so a kill at any
moment leaves the previous one. They hold the adapter as safetensors, and the states of the
optimizer, the schedule and the random generators as PyTorch files, which are read as data only
(``weights_only=True``), never as pickles that could run code.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerState

from adaptermix.errors import ArtifactError, ResourceError, first_line
from adaptermix.models.fitting import RowLimit, lacks_memory, saved_gradients
from adaptermix.tables import number_of
from adaptermix.training.answer_loss import gather_answers
from adaptermix.training.checkpoints import (
    CHECKPOINT,
    STAGING,
    STATE_FILE,
    drop_checkpoint,
    has_ended,
    last_checkpoint,
    step_of,
)

_LOSSES = "losses.json"  # in a checkpoint
_TORCH_WRITER = "inline_container"  # in torch.save's error when a disk is full
_LESS_MEMORY = "lower --micro-batch-size, --contrastive-batch or --max-length"
_KEPT = 2  # checkpoints: the newest, and the best or the previous one


@dataclass(frozen=True)
class NamedCollator:
    """Adds the names of a batch's rows to the batch of another collator."""

    collator: Callable[[Sequence[Any]], dict[str, Any]]

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Return the batch, with the names of its rows under ``names``."""
        return {**self.collator(rows), "names": [row.name for row in rows]}


class AdapterTrainer(Trainer):
    """Trains an adapter; see the module. Its collator must be a ``NamedCollator``."""

    names: Sequence[str] = ()  # of the rows of the current batch
    can_split = True  # the loss of a batch is a sum over its rows
    loss_names: Sequence[str] = ("train_loss", "loss")  # of the run, and since the last log line

    def __init__(self, **arguments: Any) -> None:
        """Pass all arguments to Trainer."""
        super().__init__(**arguments)
        if gather_answers(self.model):  # even if the class itself ignores the number of items
            self.model_accepts_loss_kwargs = True
        self.can_split = self.can_split and self.model_accepts_loss_kwargs
        # PEFT would choose a device by itself, such as an Apple GPU, which is not used.
        adapted: Any = self.model
        adapted.load_adapter = partial(adapted.load_adapter, torch_device=self.args.device.type)
        shape = (len(self.loss_names), 2)  # sum of weighted losses, and sum of weights
        self.losses = torch.zeros(shape, dtype=torch.float64, device=self.args.device)
        self.limit = RowLimit(sys.maxsize)  # rows per pass

    def train_from(self, checkpoint: Path | None) -> None:
        """Train to the end, from the start or from a checkpoint, and load the best adapter.

        Raises:
            ArtifactError: The loss is not a number.
            ResourceError: Not enough memory for one row, or no disk space for a checkpoint.
            StoppedError: SIGINT or SIGTERM arrived, and a checkpoint was saved.
        """
        if checkpoint is None or not has_ended(checkpoint):
            self._train_to_the_end(checkpoint)
            return
        if self.is_fsdp_enabled:
            self._prepare_for_training(1, None, str(checkpoint))  # each process gets its shard
        else:
            self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        self._find_best()
        if self.state.best_model_checkpoint is not None:
            self._load_best_model()

    def _train_to_the_end(self, checkpoint: Path | None) -> None:
        try:
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except RuntimeError as error:  # outside of a step, where no batch can be split
            if not lacks_memory(error):
                raise
            raise ResourceError(
                f"not enough memory: {first_line(error)}", hint=_LESS_MEMORY
            ) from error

    # Checkpoints ----------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._work / STAGING)

    @property
    def _work(self) -> Path:
        return Path(str(self.args.output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint to the hidden folder, move it into place, and drop the oldest."""
        name = f"{CHECKPOINT}{self.state.global_step}"
        staged = self._work / STAGING / name
        losses = self._shared_losses()
        try:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                (staged / _LOSSES).write_text(json.dumps(losses), encoding="utf-8")
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(staged, ignore_errors=True)
            if isinstance(error, RuntimeError) and _TORCH_WRITER not in str(error):
                raise  # not a disk error
            raise self._no_room(error) from error
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            (staged / "training_args.bin").unlink(missing_ok=True)  # an unused pickle
            drop_checkpoint(self._work / name)
            staged.rename(self._work / name)
        self.accelerator.wait_for_everyone()
        self._find_best()
        if self.args.should_save:
            self._drop_oldest()

    def _no_room(self, error: BaseException) -> ResourceError:
        last = last_checkpoint(self._work)
        free = shutil.disk_usage(self._work).free
        why = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        return ResourceError(
            f"the checkpoint of step {self.state.global_step} cannot be written to {self._work}, "
            f"where {free / 1e6:,.0f} MB are free: {why}",
            hint="free some space and run the same command with --resume; "
            + (f"it continues from step {step_of(last)}" if last else "there is no checkpoint yet"),
        )

    def _find_best(self) -> None:
        """Set the best checkpoint's path from its step, because the folder may have moved."""
        best = self._work / f"{CHECKPOINT}{self.state.best_global_step}"
        self.state.best_model_checkpoint = str(best) if best.is_dir() else None

    def _drop_oldest(self) -> None:
        found = sorted(self._work.glob(CHECKPOINT + "*"), key=step_of)
        best = self.state.best_model_checkpoint
        spare = [path for path in found[:-1] if str(path) != best]
        for path in spare[: max(0, len(found) - _KEPT)]:
            drop_checkpoint(path)

    def _init_training_state(self, *args: Any, **options: Any) -> Any:
        started = super()._init_training_state(*args, **options)
        self._find_best()
        kept = self._work / f"{CHECKPOINT}{self.state.global_step}" / _LOSSES
        if kept.is_file():
            shared = self.losses.new_tensor(json.loads(kept.read_text(encoding="utf-8")))
            self.losses = shared / self.args.world_size  # the file has the sums over all processes
        return started

    def whole_loader(self, rows: Sequence[Any], size: int) -> DataLoader[Any]:
        """Return batches of rows in order, the same for every process.

        Distributing rows over processes would change contrastive batches, and so their loss.
        """
        return DataLoader(
            rows,  # type: ignore[arg-type]
            batch_size=size,
            collate_fn=self.data_collator,
        )

    # Losses ---------------------------------------------------------------------------------------
    # Trainer's own sums restart at zero on resume; these continue from the checkpoint.

    def count_loss(self, name: str, loss: Tensor, weight: float) -> None:
        """Add a loss to the weighted mean of that name."""
        sums = self.losses[self.loss_names.index(name)]
        sums += torch.stack([loss.detach().to(sums) * weight, torch.full_like(sums[0], weight)])

    def _shared_losses(self) -> list[list[float]]:
        """Return the sums over all processes."""
        shared: list[list[float]] = self.accelerator.reduce(self.losses.clone(), "sum").tolist()
        return shared

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the mean losses since the last line or, at the end, the mean of the whole run."""
        if "loss" in logs or "train_loss" in logs:
            sums = zip(self.loss_names, self._shared_losses(), strict=True)
            means = {name: total / weight for name, (total, weight) in sums if weight}
            whole = means.pop("train_loss")
            logs |= {"train_loss": whole} if "train_loss" in logs else means
            self.losses[1:] = 0
        super().log(logs, start_time)

    # Batches --------------------------------------------------------------------------------------

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        self.names = prepared.pop("names", ())
        return prepared

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Add the gradient of one batch, split into pieces if it does not fit in memory.

        The loss is a sum over answer tokens, divided by their number in the whole optimizer step.
        The gradients of the pieces therefore add up to the gradient of the batch.

        Raises:
            ArtifactError: The loss is not a number; the message has the step and the rows.
            ResourceError: A single row does not fit, or one of several processes runs out of
                memory.
        """
        rows = list(inputs["names"])
        may_cut = self.can_split and self.args.world_size == 1
        loss = (self.limit if self.can_split else RowLimit(len(rows))).run(
            len(rows),
            lambda most: self.backpropagate(model, inputs, num_items_in_batch, most),
            lambda size, error: ResourceError(
                f"not enough memory for a forward pass of {size} of {number_of(len(rows), 'row')}: "
                f"{first_line(error)}",
                hint=_LESS_MEMORY,
            ),
            undo=saved_gradients(model) if may_cut else None,
        )
        if not torch.isfinite(loss):
            raise ArtifactError(
                f"the loss is not finite at step {self.state.global_step + 1}, for the "
                f"examples {_listed(rows)}",
                hint=_why_not_finite(model),
            )
        micro_batches = self.current_gradient_accumulation_steps
        for name in ("train_loss", "loss"):
            self.count_loss(name, loss * micro_batches, 1 / micro_batches)
        return loss

    def backpropagate(
        self, model: nn.Module, inputs: dict[str, Any], items: Tensor | int | None, most: int
    ) -> Tensor:
        """Run forward and backward on a batch, and return the sum of its pieces' losses.

        Args:
            model: The model to train.
            inputs: The batch.
            items: Number of answer tokens in the optimizer step, the divisor of the loss.
            most: Maximum number of rows per piece.
        """
        step = super().training_step
        losses = [step(model, piece, items) for piece in _pieces(inputs, most)]
        return torch.stack(losses).sum()


def _pieces(batch: dict[str, Any], most: int) -> Iterator[dict[str, Any]]:
    """Split a batch into pieces of at most ``most`` rows and nearly equal size."""
    rows = len(batch["names"])
    if rows <= most:  # some batches have more tensor rows than names
        yield batch
        return
    size = -(-rows // -(-rows // most))
    for start in range(0, rows, size):
        yield {name: values[start : start + size] for name, values in batch.items()}


def _why_not_finite(model: nn.Module) -> str:
    for name, parameter in model.named_parameters():
        if not (parameter.requires_grad or torch.isfinite(parameter).all()):
            return f"the base model's own weights contain NaN or infinity: {name}"
    return "lower --lr, or check these examples"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"
