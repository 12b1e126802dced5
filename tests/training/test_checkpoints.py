"""Which checkpoint a training resumes from; tests/system/test_checkpoints.py kills trainings."""

import json

import pytest
import torch
from safetensors.torch import save_file

from adaptermix.training.checkpoints import drop_checkpoint, last_checkpoint, step_of


def write_checkpoint(work, step):
    folder = work / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    save_file({"lora_A": torch.ones(1)}, folder / "adapter_model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt"):
        (folder / name).touch()
    return folder


@pytest.fixture
def work(tmp_path):
    """Checkpoints whose names are in another order than their steps."""
    for step in (9, 10, 100, 20):
        write_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    return tmp_path


def test_the_newest_is_that_of_the_highest_step(work):
    found = []
    while (newest := last_checkpoint(work)) is not None:
        found.append(step_of(newest))
        drop_checkpoint(newest)
    assert found == [100, 20, 10, 9]


@pytest.mark.parametrize(
    "name", ["trainer_state.json", "adapter_model.safetensors", "optimizer.pt", "scheduler.pt"]
)
def test_one_that_lacks_a_file_is_passed_over(work, name):
    (work / "checkpoint-100" / name).unlink()
    assert last_checkpoint(work) == work / "checkpoint-20"
