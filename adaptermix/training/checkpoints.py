"""Checkpoints of a training: find the last one that is whole."""

import json
import shutil
from pathlib import Path

from adaptermix.errors import AdaptermixError
from adaptermix.files.tensors import TensorFile

STATE_FILE = "trainer_state.json"
STAGING = ".staging"
CHECKPOINT = "checkpoint-"
CANDIDATES = ".candidates"  # of a folder of several trainings, of which one is kept


def work_folder(out: Path) -> Path:
    """Return the hidden folder where a training lies until its adapter is written."""
    return out.parent / f".{out.name}.training"


def last_checkpoint(work: Path) -> Path | None:
    """Return the newest checkpoint that is whole, of those in a folder; None without any."""
    found = [path for path in work.glob(CHECKPOINT + "*") if path.name.split("-")[1].isdigit()]
    newest_first = sorted(found, key=step_of, reverse=True)
    return next((path for path in newest_first if _is_whole(path)), None)


def step_of(checkpoint: Path) -> int:
    """Return the step at which a checkpoint was saved."""
    return int(checkpoint.name.removeprefix(CHECKPOINT))


def _is_whole(checkpoint: Path) -> bool:
    """Whether a run can go on from a checkpoint: it came from elsewhere, or a disk failed."""
    try:
        json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        has_weights = any(checkpoint.glob("pytorch_model_fsdp*")) or bool(
            TensorFile(checkpoint / "adapter_model.safetensors").specs
        )
    except (OSError, ValueError, AdaptermixError):
        return False
    has_states = (checkpoint / "scheduler.pt").is_file() and any(checkpoint.glob("optimizer*"))
    return has_weights and has_states


def has_ended(checkpoint: Path) -> bool:
    """Whether training was over when the checkpoint was made, by its steps or by early stopping."""
    state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    control = state["stateful_callbacks"]["TrainerControl"]["args"]
    return bool(control["should_training_stop"])


def drop_checkpoint(checkpoint: Path) -> None:
    """Delete a checkpoint; half of one never bears its name."""
    if checkpoint.is_dir():
        waste = checkpoint.parent / STAGING / f"dropped-{checkpoint.name}"
        shutil.rmtree(waste, ignore_errors=True)
        waste.parent.mkdir(exist_ok=True)
        checkpoint.rename(waste)
        shutil.rmtree(waste, ignore_errors=True)
