"""The core alone, as `pip install adaptermix` brings it: small, and without torch."""

import json
import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]
LIMIT = 200e6  # bytes of the whole environment, pip included
CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj"],
    "base_model_name_or_path": "somebody/model",
}


def build(folder):
    """Build wheel and sdist, and return what they hold, by their names."""
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    env = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode != 0:
        pytest.skip(f"nothing can be built here: {done.stdout.strip().splitlines()[-1]}")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    build(folder)
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory, packages):
    """Python of a new environment that holds adaptermix and nothing it does not ask for."""
    folder = tmp_path_factory.mktemp("core")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    (wheel,) = packages.glob("*.whl")
    command = [python, "-m", "pip", "install", "--quiet", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"pip cannot install here: {done.stderr.strip().splitlines()[-1]}")
    return python


def adapter(folder, seed):
    draw = np.random.default_rng(seed).standard_normal
    folder.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    factors = {"A": draw((4, 32)), "B": draw((32, 4))}
    tensors = {name.format(side): f.astype(np.float32) for side, f in factors.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    return 2.0 * factors["B"] @ factors["A"]


def run(python, *arguments, cwd):
    command = [python.with_name("adaptermix"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_the_same_files_give_the_same_packages(packages, tmp_path):
    again = build(tmp_path)
    assert {path.name: path.read_bytes() for path in packages.iterdir()} == again
    (archive,) = packages.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    for name in ("Makefile", "README.md", "mkdocs.yml", "docs/tutorial.md", "tests/test_api.py"):
        assert name in names


def test_two_adapters_are_merged_without_torch_in_a_small_environment(python, tmp_path):
    deltas = [adapter(tmp_path / name, seed) for seed, name in enumerate(("task", "align"))]
    probe = "import importlib.util as u; print([bool(u.find_spec(n)) for n in ('torch', 'peft')])"
    found = subprocess.run([python, "-c", probe], capture_output=True, text=True)
    assert found.stdout == "[False, False]\n"
    done = run(python, "merge", "task", "align", "--weight", "0.75", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rank"] == 8
    check = (
        "import numpy as np, sys; from safetensors.numpy import load_file\n"
        "t = load_file('merged.safetensors'); a, b = (t[k] for k in sorted(t))\n"
        "np.save('delta.npy', b @ a)"
    )
    assert subprocess.run([python, "-c", check], cwd=tmp_path).returncode == 0
    merged, exact = np.load(tmp_path / "delta.npy"), 0.75 * deltas[0] + 0.25 * deltas[1]
    scaling = np.vdot(merged, exact) / np.vdot(merged, merged)  # alpha / rank, whatever it is
    np.testing.assert_allclose(scaling * merged, exact, rtol=1e-4, atol=1e-4)
    files = [path for path in python.parents[1].rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if not path.is_symlink()) < LIMIT


def test_a_report_is_made_without_an_extra(python, tmp_path):
    adapter(tmp_path / "task", 0)
    done = run(python, "report", "task", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "<figure" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("train-task", "--dry-run"), "train"),
        (("eval", "--dry-run"), "eval"),
        (("merge", "task", "align", "--search", "auto"), "search"),
        (("report", "task", "--export", "figures"), "report"),
        (("demo",), "eval"),
    ],
)
def test_a_command_whose_extra_is_missing_says_what_installs_it(python, tmp_path, arguments, extra):
    done = run(python, *arguments, cwd=tmp_path)
    assert done.returncode == 6
    assert done.stderr.splitlines()[-1] == f'hint: pip install "adaptermix[{extra}]"'
