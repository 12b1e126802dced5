"""What ends an engine whose command was killed, tried with processes that only sleep."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.processes import are_gone, is_alive

from adaptermix.generation import engine_guard

GUARD = Path(engine_guard.__file__)

# Stands in for a command with an engine: a child of multiprocessing, and one of the user's own.
COMMAND = """
import multiprocessing, os, subprocess, sys, time
if __name__ == "__main__":
    engine = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    engine.start()
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    guard = subprocess.Popen([sys.executable, "-P", sys.argv[1], str(os.getpid())])
    print(engine.pid, other.pid, guard.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_engine_ends_with_its_command_and_nothing_else_does(tmp_path, number):
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    command = subprocess.Popen([sys.executable, script, GUARD], stdout=subprocess.PIPE, text=True)
    engine, other, guard = map(int, command.stdout.readline().split())
    try:
        assert not are_gone([engine], seconds=2.5)  # it lives as long as the command does
        command.send_signal(number)
        command.wait()
        assert are_gone([engine, guard])
        assert is_alive(other)
    finally:
        command.kill()
        command.stdout.close()
        for pid in filter(is_alive, (engine, other, guard)):
            os.kill(pid, signal.SIGKILL)
