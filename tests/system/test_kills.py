"""A training that is killed goes on to the adapter of one that was not."""

import random
import signal
import sys
import time

import pytest
from helpers.training import KINDS, assert_same
from helpers.warm import Warm

STEPS = 12


def train_slowly(kind, model, corpus, out):
    """Say on standard output when a step is done, and wait a moment."""
    train, settings_for = KINDS[kind]

    def told(progress):
        sys.stdout.write(f"{progress.done}\n")
        sys.stdout.flush()
        time.sleep(0.05)

    train(settings_for(model, corpus, out, resume=True), on_progress=told)


@pytest.mark.parametrize("kind", KINDS)
def test_sigkill_at_random_moments(tmp_path, model_dir, corpus_dir, kind):
    """Killed twice within a few steps, wherever that falls; the same command goes on each time."""
    train, settings_for = KINDS[kind]
    out = tmp_path / "killed"
    chance = random.Random(kind)
    for step in sorted(chance.sample(range(2, STEPS), 2)):
        child = Warm(train_slowly, kind, model_dir, corpus_dir, out)
        while child.poll() is None and f"\n{step}\n" not in f"\n{child.stdout}":
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.15))
        child.kill()
        child.wait()
        assert child.returncode == -signal.SIGKILL, child.stderr
        assert not out.exists()
    train(settings_for(model_dir, corpus_dir, out, resume=True))
    train(settings_for(model_dir, corpus_dir, tmp_path / "whole"))
    assert_same(tmp_path / "whole", out)
