"""Training checkpoints: find the newest complete one."""

import json
import shutil
from pathlib import Path

from adaptermix.errors import AdaptermixError
from adaptermix.files.tensors import TensorFile

STATE_FILE = "trainer_state.json"
STAGING = ".staging"
CHECKPOINT = "checkpoint-"
CANDIDATES = ".candidates"  # suffix of a folder with several training runs, of which one is kept


def work_folder(out: Path) -> Path:
    """Return the hidden folder that holds a training run until its adapter is written."""
    return out.parent / f".{out.name}.training"


def candidates_folder(out: Path) -> Path:
    """Return the hidden folder that holds several training runs, of which one is kept."""
    return out.parent / f".{out.name}{CANDIDATES}"


def last_checkpoint(work: Path) -> Path | None:
    """Return the newest complete checkpoint in a folder, or None."""
    found = [path for path in work.glob(CHECKPOINT + "*") if path.name.split("-")[1].isdigit()]
    newest_first = sorted(found, key=step_of, reverse=True)
    return next((path for path in newest_first if _is_whole(path)), None)


def step_of(checkpoint: Path) -> int:
    """Return the step at which a checkpoint was saved."""
    return int(checkpoint.name.removeprefix(CHECKPOINT))


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is complete; a copy or a failing disk can leave an incomplete one."""
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
    """Whether training had ended at this checkpoint, by its steps or by early stopping."""
    state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    control = state["stateful_callbacks"]["TrainerControl"]["args"]
    return bool(control["should_training_stop"])


def drop_checkpoint(checkpoint: Path) -> None:
    """Delete a checkpoint; it is renamed first, so a partial one never has its name."""
    if checkpoint.is_dir():
        waste = checkpoint.parent / STAGING / f"dropped-{checkpoint.name}"
        shutil.rmtree(waste, ignore_errors=True)
        waste.parent.mkdir(exist_ok=True)
        checkpoint.rename(waste)
        shutil.rmtree(waste, ignore_errors=True)
