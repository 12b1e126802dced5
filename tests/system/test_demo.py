"""The demo as a newcomer runs it: nothing given, no network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adaptermix.cli.demo import _free_folder, run
from adaptermix.errors import ArtifactError

LAYERS = Path(__file__).parents[2] / "examples" / "demo" / "layers.py"
# The command as it is typed, but it trains the task for 2 of 3 epochs, and tests 60 of the 250
# utterances of each language.
DEMO = """
from adaptermix.cli import demo
from adaptermix.cli.main import main
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.settings.training import TrainTaskSettings
load = demo.load_settings
SHORTER = {EvalSettings: {"limit": 60}, TrainTaskSettings: {"epochs": 2}}

def load_shorter(kind, stated, config):
    return load(kind, stated | SHORTER.get(kind, {}), config)

demo.load_settings = load_shorter
main()
"""


def test_the_demo_shows_the_whole_job(tmp_path):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-c", DEMO, "demo", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "demo"
    scores = json.loads((folder / "eval-massive" / "scores.json").read_text())
    assert json.loads(done.stdout)["macro"] == scores["macro"]
    assert scores["systems"] == ["base", "task", "align", "merged"]
    f1 = {(c["system"], c["lang"]): c["score"]["value"] for c in scores["cells"]}
    for lang in ("en", "de", "es"):
        assert f1["task", lang] >= 0.75
        assert f1["base", lang] < 0.1
        assert f1["task", lang] > f1["task", "cy"]
    align = json.loads((folder / "align.log.jsonl").read_text().splitlines()[-1])
    assert align["step"] > 0
    assert "adaptermix merge" in done.stderr
    with pytest.raises(ArtifactError, match="exists"):
        run(folder)
    check_alignment(folder, environment)


def check_alignment(folder, environment):
    """Translations are found more often up to the aligned block: of pairs held out, and elsewhere.

    Neither the test utterances nor the last two kinds of languages were aligned.
    """
    shown = subprocess.run(
        [sys.executable, LAYERS, folder, "align.safetensors", "--limit", "150"],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = [line.strip("| ").split(" | ") for line in shown.splitlines() if line.startswith("| ")]
    kinds = [column.partition(": ")[2] for column in rows[0][1:4]]
    assert kinds == ["aligned", "of the task", "other"]
    found = [[float(cell) for cell in row[1:]] for row in rows[1:]]
    assert found[0][:3] == found[0][3:]  # the embeddings have no adapter
    for block in range(1, 5):
        base, aligned = found[block][:3], found[block][3:]
        assert all(after > 1.2 * before for before, after in zip(base, aligned, strict=True)), block
    assert "aligned here" in rows[5][0]


def test_a_second_demo_takes_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(3):
        folder = _free_folder(Path("runs/demo"))
        folder.mkdir(parents=True)
        names.append(folder.name)
    assert names == ["demo", "demo-2", "demo-3"]
