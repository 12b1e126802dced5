"""Memory and kills of a fold, in processes of their own, on a model of 300 MB in shards."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.format import describe_config, spec_of
from adaptermix.adapters.writing import write_adapter

HIDDEN = 1024
LAYERS = 36
FOLD = """
import resource, sys
from pathlib import Path
from adaptermix.merging.fold import merge_into
from adaptermix.settings.merging import MergeSettings
base, adapter, out = sys.argv[1:]
settings = lambda name: MergeSettings(weights=(1,), into=base, out=Path(name))
merge_into([Path(adapter)], settings(out), dry_run=True)  # everything is imported and warm
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
print("READY", flush=True)
merge_into([Path(adapter)], settings(out))
print(peak() - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Weights of 300 MB in bfloat16 in nine files, and an adapter on every second matrix."""
    folder = tmp_path_factory.mktemp("large")
    base = folder / "base"
    base.mkdir()
    LlamaConfig(hidden_size=HIDDEN, num_hidden_layers=LAYERS).save_pretrained(base)
    index = {}
    for shard in range(9):
        names = [
            f"model.layers.{layer}.mlp.{kind}_proj.weight"
            for layer in range(shard * LAYERS // 9, (shard + 1) * LAYERS // 9)
            for kind in ("up", "down")
        ]
        file = f"model-{shard + 1:05}-of-00009.safetensors"
        save_file(
            {n: torch.ones(2 * HIDDEN, HIDDEN, dtype=torch.bfloat16) for n in names}, base / file
        )
        index |= dict.fromkeys(names, file)
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    update = LoraUpdate(np.ones((2, HIDDEN)), np.ones((2 * HIDDEN, 2)), 0.5)
    updates = {n.removesuffix(".weight"): update for n in index if "up_proj" in n}
    specs = {name: spec_of(update) for name in updates}
    write_adapter(folder / "adapter", updates, describe_config(specs, None, all_layers=True), {})
    yield folder
    for path in folder.rglob("*.safetensors"):  # pytest keeps the folders of three runs
        path.unlink()


def start(large, out):
    code = [sys.executable, "-c", FOLD, str(large / "base"), str(large / "adapter"), str(out)]
    return subprocess.Popen(code, stdout=subprocess.PIPE, text=True, env=os.environ)


def test_memory_does_not_grow_with_the_model(large):
    process = start(large, large / "model")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    size = sum(path.stat().st_size for path in (large / "base").glob("*.safetensors"))
    assert size > 300e6
    grown = int(said.split()[-1]) * 1024
    assert grown < size / 3
    for shard in sorted((large / "base").glob("*.safetensors")):
        folded = load_file(large / "model" / shard.name)
        for name, weight in folded.items():
            assert (weight == (2.0 if "up_proj" in name else 1.0)).all()


def test_a_killed_fold_never_shows_a_model(large):
    process = start(large, large / "killed")
    assert process.stdout.readline() == "READY\n"
    while not list(large.glob(".killed.*/killed/*.safetensors")):
        assert process.poll() is None
    process.kill()
    process.wait()
    assert not (large / "killed").exists()
    assert list(large.glob(".killed.*"))
    process = start(large, large / "killed")
    assert process.wait(timeout=100) == 0
    assert not list(large.glob(".killed.*")), "gigabytes nobody sees"
