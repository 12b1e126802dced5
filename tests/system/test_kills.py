"""A training that is killed goes on to the adapter of one that was not."""

import random
import signal
import subprocess
import sys
import time

import pytest
from helpers.training import KINDS, assert_same

STEPS = 12

# Run by the tests that kill: the process says when it has done a step, and waits a moment.
CHILD = """
import sys, time
sys.path[:0] = {paths!r}
from helpers.training import KINDS
train, settings_for = KINDS[{kind!r}]
def told(progress):
    print(progress.done, flush=True)
    time.sleep(0.05)
train(settings_for({model!r}, {corpus!r}, {out!r}, resume=True), on_progress=told)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_sigkill_at_random_moments(tmp_path, model_dir, corpus_dir, kind):
    """Killed twice within a few steps, wherever that falls; the same command goes on each time."""
    train, settings_for = KINDS[kind]
    out = tmp_path / "killed"
    places = {"model": str(model_dir), "corpus": corpus_dir, "out": out}
    paths = [path for path in sys.path if path]
    script = "from pathlib import PosixPath\n" + CHILD.format(kind=kind, paths=paths, **places)
    chance = random.Random(kind)
    for step in sorted(chance.sample(range(2, STEPS), 2)):
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            for line in child.stdout:
                if line.strip().isdigit() and int(line) >= step:
                    break
            time.sleep(chance.uniform(0, 0.15))
            child.kill()
        assert child.returncode == -signal.SIGKILL, child.stderr
        assert not out.exists()
    train(settings_for(model_dir, corpus_dir, out, resume=True))
    train(settings_for(model_dir, corpus_dir, tmp_path / "whole"))
    assert_same(tmp_path / "whole", out)
