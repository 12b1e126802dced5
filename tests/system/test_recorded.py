"""The commands do what they did when they were recorded; see ``recorded/record.py``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "recorded"
GROUPS = sorted(path.stem for path in (FOLDER / "results").glob("*.json"))


def test_something_is_recorded():
    assert len(GROUPS) >= 14
    commands = [json.loads((FOLDER / "results" / f"{name}.json").read_text()) for name in GROUPS]
    assert sum(map(len, commands)) > 300


@pytest.mark.parametrize("group", GROUPS)
def test_commands_do_what_they_did(group):
    done = subprocess.run(
        [sys.executable, FOLDER / "record.py", "--only", group],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
