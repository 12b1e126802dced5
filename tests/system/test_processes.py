"""Two processes on the CPU (gloo) train what one trains, and only the first of them writes.

They hold copies of the model, started by ``torchrun``, or shards of it, by ``accelerate launch``.
"""

import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from helpers.training import align_settings, factors, joint_settings, task_settings

from adaptermix.processes import shards_model
from adaptermix.training.align import train_align
from adaptermix.training.joint import train_joint
from adaptermix.training.task import train_task

TRAININGS = {
    "task": (train_task, task_settings, {"micro_batch_size": 4}),
    # A contrastive batch is shared: every process compares its half with all of it.
    "align": (train_align, align_settings, {"contrastive_batch": 16, "dropout": 0.2}),
    "parts": (train_align, align_settings, {"micro_batch_size": 3, "preserve": 1.0}),
    "joint": (train_joint, joint_settings, {"contrastive_batch": 8}),
    "several": (train_align, align_settings, {"temperature": (0.1, 1.0)}),
}
SAME = {"dropout": 0.0, "max_steps": 3, "eval_steps": 2, "lr": 1e-3}
CHILD = """
import sys
from pathlib import PosixPath
sys.path[:0] = {paths!r}
from test_processes import train_all, {prepare}
{prepare}()
train_all({model!r}, {corpus!r}, {out!r})
"""
SHARDS = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
fsdp_config: {fsdp_version: 2, fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP}
mixed_precision: 'no'
num_machines: 1
num_processes: 2
"""


def keep_copies():
    """Leave everything as it is."""


def shard_on_a_cpu():
    """Let accelerate do on a CPU what it does on a GPU: it never asks there whether to shard."""
    plain = AcceleratorState.__init__

    def sharding(self, *args, fsdp_plugin=None, **options):
        plain(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None:
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = sharding


LAUNCHERS = {
    "copies": (["torch.distributed.run", "--standalone", "--nproc-per-node=2"], keep_copies),
    "shards": (["accelerate.commands.launch", "--config_file", "{config}"], shard_on_a_cpu),
}


def train_all(model, corpus, out):
    """Train what one of two processes trains, and one run that is killed twice."""
    for name, (train, settings_for, changes) in TRAININGS.items():
        train(settings_for(model, corpus, out / name, **SAME | changes))
    train, settings_for, changes = TRAININGS["joint"]
    settings = settings_for(model, corpus, out / "killed", **SAME | changes, resume=True)

    def kill(progress):
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, on_progress=kill)
    shards = list(out.glob(".killed.training/checkpoint-2/pytorch_model_fsdp*"))
    assert bool(shards) == shards_model()
    judging = "adaptermix.training.joint._JointRun.dev_scores"
    with pytest.raises(KeyboardInterrupt), mock.patch(judging, side_effect=KeyboardInterrupt):
        train(settings)
    train(settings)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, model_dir, corpus_dir):
    """The adapters of one process."""
    folder = tmp_path_factory.mktemp("processes")
    for name, (train, settings_for, changes) in TRAININGS.items():
        train(settings_for(model_dir, corpus_dir, folder / "one" / name, **SAME | changes))
    return folder


@pytest.fixture(scope="module", params=LAUNCHERS)
def two(request, runs, model_dir, corpus_dir):
    """The folder with the adapters of two processes."""
    launcher, prepare = LAUNCHERS[request.param]
    script, config = runs / f"{request.param}.py", runs / "accelerate.yaml"
    config.write_text(SHARDS)
    out = runs / request.param
    places = {"model": model_dir, "corpus": corpus_dir, "out": out}
    paths = [str(Path(__file__).parent), *filter(None, sys.path)]
    script.write_text(CHILD.format(paths=paths, prepare=prepare.__name__, **places))
    command = [part.format(config=config) for part in [*launcher, str(script)]]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_give_the_adapter_of_one(runs, two, name):
    one, other = factors(runs / "one" / name), factors(two / name)
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(other[key], one[key], rtol=1e-4, atol=2e-6)


def test_runs_that_are_killed_go_on_to_the_same_adapter(two):
    whole, killed = factors(two / "joint"), factors(two / "killed")
    assert all(torch.equal(whole[key], killed[key]) for key in whole)


@pytest.mark.parametrize("name", TRAININGS)
def test_only_the_first_process_writes(runs, two, name):
    logs = [
        [json.loads(line) for line in (folder / f"{name}.log.jsonl").read_text().splitlines()]
        for folder in (runs / "one", two)
    ]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]
    for one, other in zip(*logs, strict=True):
        for key in ("loss", "task_loss", "align_loss", "eval_align_loss", "eval_sum"):
            if key in one:  # of task examples, the last dev batch is filled up among processes
                assert other[key] == pytest.approx(one[key], rel=5e-3 if "sum" in key else 1e-4)
        if "eval_loss" in one:
            rel = 5e-3 if name == "task" else 1e-4
            assert other["eval_loss"] == pytest.approx(one["eval_loss"], rel=rel)
    names = {path.name for path in two.iterdir()}
    trained = {*TRAININGS, "killed"}
    assert names == {*trained, *(f"{name}.log.jsonl" for name in trained)}
