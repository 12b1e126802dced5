"""Two processes on the CPU (gloo) train what one trains, and only the first of them writes."""

import json
import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from test_joint_training import joint_settings
from test_training import align_settings, factors, task_settings

from adaptermix import cli
from adaptermix.align_training import train_align
from adaptermix.errors import ConfigError
from adaptermix.joint_training import train_joint
from adaptermix.task_training import train_task

TRAININGS = {
    "task": (train_task, task_settings, {"micro_batch_size": 4}),
    # A contrastive batch is shared: every process compares its half with all of it.
    "align": (train_align, align_settings, {"contrastive_batch": 16, "dropout": 0.2}),
    "joint": (train_joint, joint_settings, {}),
}
SAME = {"dropout": 0.0, "max_steps": 3, "eval_steps": 2, "lr": 1e-3}
CHILD = """
import sys
from pathlib import PosixPath
sys.path[:0] = {paths!r}
from test_processes import SAME, TRAININGS
for name, (train, settings_for, changes) in TRAININGS.items():
    train(settings_for({model!r}, {corpus!r}, {out!r} / name, **SAME | changes))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, model_dir, corpus_dir):
    """The adapters of one process and of two, in two folders."""
    folder = tmp_path_factory.mktemp("processes")
    for name, (train, settings_for, changes) in TRAININGS.items():
        train(settings_for(model_dir, corpus_dir, folder / "one" / name, **SAME | changes))
    script = folder / "child.py"
    places = {"model": model_dir, "corpus": corpus_dir, "out": folder / "two"}
    script.write_text(CHILD.format(paths=[path for path in sys.path if path], **places))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launcher, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_give_the_adapter_of_one(runs, name):
    one, two = factors(runs / "one" / name), factors(runs / "two" / name)
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", TRAININGS)
def test_only_the_first_process_writes(runs, name):
    logs = [
        [json.loads(line) for line in (runs / count / f"{name}.log.jsonl").read_text().splitlines()]
        for count in ("one", "two")
    ]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]
    for one, two in zip(*logs, strict=True):
        for key in ("loss", "task_loss", "align_loss", "eval_align_loss", "eval_sum"):
            if key in one:  # of task examples, the last dev batch is filled up among processes
                assert two[key] == pytest.approx(one[key], rel=5e-3 if "sum" in key else 1e-4)
        if "eval_loss" in one:
            rel = 1e-4 if name == "align" else 5e-3
            assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=rel)
    names = {path.name for path in (runs / "two").iterdir()}
    assert names == {*TRAININGS, *(f"{name}.log.jsonl" for name in TRAININGS)}


def test_a_batch_is_shared_evenly(tmp_path, model_dir, corpus_dir, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="--batch-size 16 cannot be shared by 3 processes"):
        train_task(task_settings(model_dir, corpus_dir, tmp_path / "a"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="6 does not divide --batch-size 16 shared by 2 proc"):
        train_task(task_settings(model_dir, corpus_dir, tmp_path / "a", micro_batch_size=6))


def test_a_contrastive_batch_is_shared_evenly(tmp_path, model_dir, corpus_dir, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    settings = align_settings(
        model_dir, corpus_dir, tmp_path / "a", contrastive_batch=5, batch_size=20
    )
    with pytest.raises(ConfigError, match="--contrastive-batch 5 cannot be shared by 2 proc"):
        train_align(settings)


def test_only_the_first_process_shows_the_report(monkeypatch):
    shown = []
    names = [field.name for field in fields(cli.Options)]
    options = cli.Options(**dict.fromkeys(names, False))
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        cli._show(rank, shown.append, options)
    assert shown == ["0"]
