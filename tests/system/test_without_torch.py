"""What merges, looks at, scores and reports: without torch, by name and where there is none."""

import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from helpers.adapters import peft_adapter
from helpers.completions import completions_server
from helpers.records import write_evaluation
from helpers.updates import random_update
from safetensors.numpy import save_file

from adaptermix.adapters.format import describe_config, spec_of
from adaptermix.adapters.writing import write_adapter
from adaptermix.merging.methods import METHODS

# Python imports it at its start. Every process leaves a file with what it had imported at its end.
SITE = """
import atexit, os, sys
from pathlib import Path

HEAVY = {"torch", "transformers", "peft", "accelerate"}


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


if os.environ["HEAVY"] == "absent":
    sys.meta_path.insert(0, Absent())
record = Path(os.environ["RECORDS"], str(os.getpid()))
atexit.register(lambda: record.write_text(" ".join(sorted(HEAVY & set(sys.modules)))))
"""
MODULES = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(2)]
RECIPE = """
out = "runs"
[half]
command = "merge"
adapters = ["a", "b.safetensors"]
weight = 0.5
[small]
command = "merge"
adapters = ["@half"]
weights = [1]
rank = 2
[look]
command = "inspect"
adapters = ["@small", "a"]
[marks]
command = "score"
task = "wmt23"
src = "en-de.src"
ref = ["en-de.ref"]
target-lang = "de"
predictions = "out.txt"
metrics = ["chrf"]
"""
TWO = ("merge", "a", "b.safetensors", "--weight", "0.9", "-o", "m")
SCORE = (
    *("score", "--task", "wmt23", "--src", "en-de.src", "--ref", "en-de.ref"),
    *("--target-lang", "de", "--predictions", "out.txt", "--metrics", "chrf"),
)
COMMANDS = {
    "merge": (*TWO, "--json"),
    "a rank": (*TWO, "--rank", "3"),
    "a dry run": (*TWO, "--method", "knots", "--dry-run"),
    "merge --into": (*TWO, "--into", "base"),
    "inspect": ("inspect", "a", "b.safetensors"),
    "score": SCORE,
    "report": ("report", "eval", "a", "-o", "report.html"),
    "recipe plan": ("run", "recipe.toml", "--dry-run"),
    "recipe": ("run", "recipe.toml"),
}


@pytest.fixture
def folder(tmp_path):
    """Two adapters, a base model, an evaluation, a translation and a recipe."""
    for seed, (name, dtype) in enumerate({"a": ml_dtypes.bfloat16, "b.safetensors": "f4"}.items()):
        updates = {m: random_update(4, 8, 6, 2.0, seed + at, dtype) for at, m in enumerate(MODULES)}
        specs = {module: spec_of(update) for module, update in updates.items()}
        record = {"adaptermix": "0.1.0", "command": "train-task"}
        write_adapter(tmp_path / name, updates, describe_config(specs, None, True), record)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    weights = {f"{module}.weight": np.ones((8, 6), np.float32) for module in MODULES}
    save_file(weights, tmp_path / "base" / "model.safetensors")
    write_evaluation(tmp_path / "eval", {"en": ["wake me at five"], "cy": ["deffra fi am bump"]})
    for name in ("en-de.src", "en-de.ref", "out.txt"):
        (tmp_path / name).write_text("Guten Morgen.\n")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    (tmp_path / "records").mkdir()
    return tmp_path


def run(folder, *arguments, heavy):
    """Run a command, and return what it imported of what is heavy, and its output."""
    paths = [str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        "PYTHONPATH": os.pathsep.join(paths),
        "RECORDS": str(folder / "records"),
        "HEAVY": heavy,
        "HF_HUB_OFFLINE": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "adaptermix", *arguments],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said, _ = process.communicate(timeout=300)
    return process.returncode, (folder / "records" / str(process.pid)).read_text(), said


@pytest.mark.parametrize("heavy", ["present", "absent"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_core_command_imports_torch(folder, command, heavy):
    code, imported, said = run(folder, *COMMANDS[command], heavy=heavy)
    assert (code, imported) == (0, ""), said


def test_every_method_merges_without_torch(folder):
    code = (
        "from pathlib import Path; from adaptermix import MergeSettings, merge\n"
        f"for method in {METHODS}:\n"
        "    settings = MergeSettings(weight=0.9, method=method, out=Path(method))\n"
        "    assert merge([Path('a'), Path('b.safetensors')], settings).written\n"
    )
    environment = {"PYTHONPATH": os.pathsep.join([str(folder / "site"), *sys.path])}
    environment |= {"RECORDS": str(folder / "records"), "HEAVY": "absent"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} >= set(METHODS)


def test_the_doctor_says_that_there_is_no_torch(folder):
    code, imported, said = run(folder, "doctor", "--json", heavy="absent")
    checks = {check["name"]: check["state"] for check in json.loads(said)["checks"]}
    assert (code, imported) == (6, "")
    assert checks["imports"] == "missing"
    code, imported, said = run(folder, "doctor", heavy="present")
    assert imported == "", said


WITHOUT = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
absent = ("torch", "peft", "accelerate", "vllm")
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in absent else find(
    name, *rest
)
"""


def test_eval_on_a_server_needs_no_torch(tmp_path, model_dir, corpus_dir):
    peft_adapter(model_dir, tmp_path / "task")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT)
    paths = [str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    with completions_server(model=str(model_dir)) as site:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "adaptermix", "eval", "--server", site.url, "--json"),
                *("--model", model_dir, "--adapter", "task", "--data-dir", corpus_dir),
                *("--langs", "en,cy", "--limit", "3", "--max-new-tokens", "8"),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["decoded"] == 12
    assert len(site.answered) == 12
