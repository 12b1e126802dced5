"""A training that is killed goes on in another folder to the adapter of one that was not."""

import json
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from helpers.training import ALL_KINDS, assert_same
from helpers.warm import Warm

from adaptermix.adapters.adapter import read_adapter

OFTEN = {"max_steps": 12, "eval_steps": 2, "patience": 50, "resume": True}
MEASURED = {"layer": "auto", "pool_skip": "auto"}
TIMES = re.compile("runtime|per_second|flos|seconds")
RUNS = {
    "align": ("align", MEASURED | {"micro_batch_size": 8}),
    "sweep": ("align", {"temperature": (0.1, 1.0)}),
    "joint": ("joint", MEASURED | {"stop_on": "loss", "limit": 12}),
}


def train(name, folder, out):
    """Train with data and model of a folder, and say when a step is done."""
    kind, changes = RUNS[name]
    run, settings_for = ALL_KINDS[kind]

    def told(progress):
        sys.stdout.write(f"{progress.done}\n")
        sys.stdout.flush()

    folder = Path(folder)
    settings = settings_for(folder / "model", folder / "corpus", folder / out, **OFTEN, **changes)
    return run(settings, on_progress=told)


def kill(name, folder, checkpoint, cwd, work):
    child = Warm(train, name, folder, "killed", cwd=cwd)
    while child.poll() is None and not list(work.glob(f"**/checkpoint-{checkpoint}")):
        time.sleep(0.005)
    child.kill()
    child.wait()
    assert child.returncode == -signal.SIGKILL, child.stderr


def losses(log):
    """Return the lines of a log without times; losses of dev rows differ by rounding."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [
        {key: close(value) for key, value in row.items() if not TIMES.search(key)} for row in rows
    ]


def close(value):
    return pytest.approx(value, rel=1e-5) if isinstance(value, float) else value


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_training_goes_on_elsewhere(tmp_path, model_dir, corpus_dir, name):
    """Its project is moved, and the command is typed in another folder, with other paths."""
    project, moved = tmp_path / "project", tmp_path / "else" / "where"
    shutil.copytree(model_dir, project / "model")
    shutil.copytree(corpus_dir, project / "corpus")
    kill(name, ".", 4, project, project)
    moved.parent.mkdir()
    project.rename(moved)
    kill(name, "where", 8, moved.parent, moved)
    report = train(name, moved, "killed")
    whole = train(name, moved, "whole")
    assert_same(moved / "whole", moved / "killed")
    assert report.dev == pytest.approx(whole.dev, rel=1e-5)
    records = [read_adapter(moved / each).record for each in ("killed", "whole")]
    for record in records:
        record |= {"settings": record["settings"] | {"out": ""}, "out": "", "log": "", "dev": {}}
        record["candidates"] = [*record["candidates"]]
    assert records[0] == records[1]
    assert losses(moved / "whole.log.jsonl") == losses(moved / "killed.log.jsonl")
