"""`adaptermix inspect` as typed, on the adapter of the voice example."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("adaptermix")
TASK = Path(__file__).parents[2] / "examples" / "voice" / "task.safetensors"


@pytest.fixture
def folder(tmp_path):
    shutil.copy(TASK, tmp_path / "task.safetensors")
    (tmp_path / "notes.txt").write_text("no adapter")
    return tmp_path


def run(folder, line):
    done = subprocess.run(
        [COMMAND, *line.split()],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"COLUMNS": "100", "HF_HUB_OFFLINE": "1"},
        timeout=300,
    )
    assert "Traceback" not in done.stderr
    return done


def test_one_adapter_and_two_are_told_of(folder):
    alone = run(folder, "inspect task.safetensors")
    assert alone.returncode == 0, alone.stderr
    assert alone.stderr == ""
    assert [line.split()[0] for line in alone.stdout.splitlines() if "layers." in line] == [
        f"layers.{layer}" for layer in range(8)
    ]
    for words in ("train-task: dev loss", "0-7", "163,840 in float32", "BLAKE3"):
        assert words in alone.stdout
    merged = run(folder, "merge task.safetensors --weights=-0.5 -o half")
    assert merged.returncode == 0, merged.stderr
    both = run(folder, "inspect task.safetensors half --by kind")
    (row,) = (line for line in both.stdout.splitlines() if line.startswith("q_proj"))
    assert row.split()[3:5] == ["-1.000", "8"]
    assert row.split()[5] == row.split()[7] == "1.0000"
    assert max(map(len, both.stdout.splitlines())) <= 100
    assert "below 0 they cancel" in both.stderr


def test_json_is_all_there_is_on_standard_output(folder):
    done = run(folder, "inspect task.safetensors task.safetensors --json")
    record = json.loads(done.stdout)
    assert len(record["modules"]) == 56
    assert record["total"]["comparisons"][0]["cosine"] == pytest.approx(1)
    assert record["adapters"][0]["record"]["command"] == "train-task"
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "task.safetensors"]


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("inspect nowhere", 5, "nowhere: no such file"),
        ("inspect task.safetensors some/body", 6, "no such file or folder, and no adapter"),
        ("inspect notes.txt", 5, "not a valid safetensors file"),
        ("inspect .", 5, "no adapter_config.json"),
        ("inspect task.safetensors --source-rank 0", 3, "--source-rank"),
    ],
)
def test_a_mistake_gets_one_line_and_an_exit_code(folder, line, code, words):
    done = run(folder, line)
    assert done.returncode == code
    assert words in done.stderr
    assert 1 <= len(done.stderr.splitlines()) <= 2
    assert done.stdout == ""
