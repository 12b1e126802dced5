"""Recipes on a real Ray cluster of two machines, one of whose workers is killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from helpers.corpus import write_corpus

from adaptermix.errors import ConfigError, ResourceError
from adaptermix.recipes import cluster
from adaptermix.recipes.recipe import read_recipe
from adaptermix.recipes.run import run

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="ray is not installed")
COMMAND = Path(sys.executable).with_name("adaptermix")
RECIPE = """
data-dir = "corpus"
engine = "transformers"
threads = 1
batch-size = 8
system-prompt = ""

[task]
command = "train-task"
langs = ["en"]
micro-batch-size = 4
max-steps = 24
eval-steps = 4
max-length = 128

[align]
command = "train-align"
pairs = ["cy-en"]
contrastive-batch = 4
max-steps = 4
memory = "10MB"

[merged]
command = "merge"
adapters = ["@task", "@align"]
weights = [0.9, 0.1]

[interference]
command = "inspect"
adapters = ["@task", "@align"]

[test]
command = "eval"
adapters = ["@task", "@merged"]
langs = ["en", "cy"]
limit = 4
max-new-tokens = 4
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory, model_dir):
    folder = tmp_path_factory.mktemp("ray") / "project"
    write_corpus(folder / "corpus")
    (folder / "recipe.toml").write_text(f'model = "{model_dir}"\n{RECIPE}')
    return folder


@pytest.fixture(scope="module")
def address():
    """Two machines of one core each; the driver's own has none."""
    machines = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(2):
        machines.add_node(num_cpus=1)
    yield machines.address
    machines.shutdown()


def left(out):
    """Return what a run leaves, without times."""
    state = json.loads((out / "steps.json").read_text())
    for step in state["steps"].values():
        del step["seconds"], step["content"]
    scores = json.loads((out / "test" / "scores.json").read_text())
    files = sorted(p for p in out.rglob("*") if p.suffix in (".safetensors", ".jsonl"))
    files = [path for path in files if not path.name.endswith(".log.jsonl")]
    contents = {str(path.relative_to(out)): path.read_bytes() for path in files}
    return state["steps"], scores["cells"], contents, (out / "interference.json").read_bytes()


def kill_worker_of(step, process):
    """Kill the process that performs a step; return how long the driver was given."""
    for found in psutil.process_iter(["cmdline"]):
        if " ".join(found.info["cmdline"] or ()).startswith(f"ray::{step}"):
            os.kill(found.pid, signal.SIGKILL)
            return True
    return process.poll() is not None


def test_a_killed_worker_changes_nothing(project, address, tmp_path, monkeypatch):
    serial = shutil.copytree(project, tmp_path / "serial")
    monkeypatch.setenv("ADAPTERMIX_CACHE", str(tmp_path / "first"))
    monkeypatch.chdir(serial)
    run(read_recipe(Path("recipe.toml")))
    spread = shutil.copytree(project, tmp_path / "spread")
    monkeypatch.setenv("ADAPTERMIX_CACHE", str(tmp_path / "second"))
    environment = os.environ | {"RAY_ADDRESS": address}
    command = [COMMAND, "run", "recipe.toml", "--on", "ray", "--json"]
    process = subprocess.Popen(
        command, cwd=spread, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out = spread / "runs" / "recipe"
    sign = ".task.safetensors.training/checkpoint-*/trainer_state.json"
    deadline = time.monotonic() + 300
    while not list(out.glob(sign)) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not (out / "task.safetensors").exists()
    assert kill_worker_of("task", process)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr.decode()
    assert {step["status"] for step in json.loads(stdout)["steps"]} == {"done"}
    assert left(out) == left(serial / "runs" / "recipe")
    assert b"task: its worker was lost" in stderr
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.chdir(spread)
    again = run(read_recipe(Path("recipe.toml")), on="ray")
    assert {step.status for step in again.steps} == {"done before"}


def test_what_stops_a_step_is_told_with_its_line_and_others_end(
    project, address, tmp_path, monkeypatch
):
    folder = shutil.copytree(project, tmp_path / "project")
    text = (folder / "recipe.toml").read_text()
    text = text.replace("contrastive-batch = 4", "contrastive-batch = 4\nlayer = 9")
    (folder / "recipe.toml").write_text(text.replace("max-steps = 24", "max-steps = 4"))
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match=r"recipe.toml:\d+: \[align\] --layer 9: the model has"):
        run(read_recipe(Path("recipe.toml")), on="ray")
    out = folder / "runs" / "recipe"
    assert (out / "task.safetensors").exists()
    assert not (out / "test").exists()


def test_a_step_waits_until_the_worker_of_a_killed_run_has_left_it(project, monkeypatch):
    """Ray lets the workers of a killed ``ray://`` driver go on for half a minute."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(cluster, "_ORPHANED", 0.05)
    step = read_recipe(Path("recipe.toml")).steps[0]
    step.out.parent.mkdir(parents=True)
    lock = step.out.with_name(f".{step.out.name}.lock")
    complaint = pytest.raises(ResourceError, match=f"another worker is still writing {step.out}")
    with FileLock(lock), complaint, cluster._alone_in(step):
        pass
    with cluster._alone_in(step):
        assert lock.exists()
    assert not lock.exists()
    shutil.rmtree(step.out.parent)


def test_a_cluster_that_is_not_there_and_room_that_is_not_there(project, tmp_path, monkeypatch):
    folder = shutil.copytree(project, tmp_path / "project")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="--on slurm: write --on ray"):
        run(read_recipe(Path("recipe.toml")), on="slurm")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret-of-ray")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(ResourceError, match="cannot connect to a Ray cluster") as refused:
        run(read_recipe(Path("recipe.toml")), on="ray")
    assert refused.value.hint.startswith("set RAY_AUTH_MODE=token if the cluster requires")
    assert "secret-of-ray" not in refused.value.hint
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_ADDRESS")
    text = (folder / "recipe.toml").read_text()
    asked = 'gpus = 64\nmemory = "900TB"'
    (folder / "recipe.toml").write_text(text.replace('memory = "10MB"', asked))
    with pytest.raises(
        ConfigError, match=r"\[align\] it requests gpus = 64 \(the largest"
    ) as error:
        run(read_recipe(Path("recipe.toml")), on="ray")
    assert re.search(
        r"memory = 900,000.0 GB \(the largest machine has [\d.,]+ GB\)", str(error.value)
    )
    assert not (folder / "runs" / "recipe" / "steps.json").exists(), "before the first step"
