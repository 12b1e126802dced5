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


@pytest.fixture(scope="module")
def told(request):
    """What the groups that are to be tested did: one process imports the libraries for them all."""
    chosen = [
        item.callspec.params["group"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    ]
    done = subprocess.run(
        [sys.executable, FOLDER / "record.py", "--json", "--jobs", "1", "--only", *chosen],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["group"]: row for row in rows} | {"stderr": done.stderr}


@pytest.mark.parametrize("group", GROUPS)
def test_commands_do_what_they_did(told, group):
    assert group in told, told["stderr"]
    assert told[group]["differ"] == 0, told[group]["told"]
