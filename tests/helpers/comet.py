"""An interpreter with the given behavior, in the place of COMET's."""

import sys
from pathlib import Path

PYTHON = sys.executable


def fake_python(path: Path, body: str) -> Path:
    """Write an interpreter that does not interpret: a script with the given behavior."""
    head = f"#!{PYTHON} -I\nimport json, os, pathlib, shutil, sys, time\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + body)
    path.chmod(0o755)
    return path
