"""The log of a training: one JSON line for every number that the Trainer logs."""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adaptermix.processes import is_main_process
from adaptermix.progress import OnProgress, Progress

TOLD = "told.jsonl"  # in the folder of checkpoints: lines that are logged a second time


class RunLog(TrainerCallback):
    """Writes every logged number as one JSON line, and tells how far the run is."""

    def __init__(self, path: Path, stage: str, on_progress: OnProgress) -> None:
        """Take the file, and who is told of the progress, under which name."""
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
        """Write what is logged as one line; the first process does."""
        numbers = logs or {}
        self.loss = numbers.get("loss", self.loss)
        if is_main_process():
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **numbers}) + "\n")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Tell how far the run is, with the last loss that was logged."""
        loss = "" if self.loss is None else f"loss {self.loss:.3f}"
        self.on_progress(Progress(self.stage, state.global_step, state.max_steps, loss))


def cut_log(path: Path, checkpoint: Path | None) -> list[str]:
    """Drop what was logged after the checkpoint, and return it: it will be logged again."""
    last = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    kept = [line for line in whole if json.loads(line)["step"] <= last]
    path.write_text("".join(kept), encoding="utf-8")
    return whole[len(kept) :]
