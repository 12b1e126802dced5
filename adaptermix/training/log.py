"""The log of a training run: one JSON line for each log event of Trainer."""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adaptermix.errors import ArtifactError
from adaptermix.processes import is_main_process
from adaptermix.progress import OnProgress, Progress
from adaptermix.training.checkpoints import candidates_folder, work_folder

TOLD = "told.jsonl"  # in the checkpoints' folder: lines that will be logged again


def log_file(out: Path) -> Path:
    """Return the log of the training that writes ``out``; a folder's name may contain dots."""
    return out.with_name(f"{out.name.removesuffix('.safetensors')}.log.jsonl")


def check_log(out: Path, force: bool) -> None:
    """Check that the log of ``out`` is not that of another adapter.

    A folder and a ``.safetensors`` file of the same name have the same log.

    Raises:
        ArtifactError: It is, and ``force`` is not set.
    """
    name = out.name.removesuffix(".safetensors")
    other = out.with_name(f"{name}.safetensors" if name == out.name else name)
    is_resumed = work_folder(out).exists() or candidates_folder(out).exists()
    if not (force or is_resumed) and other.exists() and log_file(out).exists():
        raise ArtifactError(
            f"{log_file(out)} is the log of {other}, and would be replaced",
            hint="choose another name with --out, or replace the log with --force",
        )


class RunLog(TrainerCallback):
    """Writes each log event as one JSON line, and reports the progress."""

    def __init__(self, path: Path, stage: str, on_progress: OnProgress) -> None:
        """Store the file, the name of the stage, and the progress callback."""
        self.path = path
        self.stage = stage
        self.on_progress = on_progress
        self.loss: float | None = None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Write a log event as one line, in the main process only."""
        numbers = logs or {}
        self.loss = numbers.get("loss", self.loss)
        if is_main_process():
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **numbers}) + "\n")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Report the progress, with the last logged loss."""
        loss = "" if self.loss is None else f"loss {self.loss:.3f}"
        self.on_progress(Progress(self.stage, state.global_step, state.max_steps, loss))


def cut_log(path: Path, checkpoint: Path | None) -> list[str]:
    """Drop the lines logged after the checkpoint, which will be logged again, and return them."""
    last = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    kept = [line for line in whole if json.loads(line)["step"] <= last]
    path.write_text("".join(kept), encoding="utf-8")
    return whole[len(kept) :]
