"""Ends an orphaned vLLM engine: a script that runs in its own process and is never imported.

    python engine_guard.py PID

vLLM's core is a separate process. In 0.32, it does not notice if its parent process is killed (by
SIGKILL, SIGTERM, or for lack of memory). It would occupy the GPU forever, and a restarted command
would find no free memory. This script detects the death of the parent, whatever the cause, and then
ends the processes that the parent has started.
"""

import os
import sys
import time
from contextlib import suppress

import psutil

_PAUSE = 1.0  # seconds between two checks
_PATIENCE = 5.0  # seconds to wait for termination before killing


def guard(parent: int) -> None:
    """Wait until the parent process is gone, then end the engine processes that it leaves."""
    engines: set[psutil.Process] = set()
    while os.getppid() == parent:
        engines |= _engines_below(parent)
        time.sleep(_PAUSE)
    for engine in tuple(engines):  # processes that these have started since
        engines |= _engines_below(engine.pid)
    for engine in engines:
        with suppress(psutil.NoSuchProcess):
            engine.terminate()
    _, alive = psutil.wait_procs(engines, timeout=_PATIENCE)
    for engine in alive:
        with suppress(psutil.NoSuchProcess):
            engine.kill()


def _engines_below(pid: int) -> set[psutil.Process]:
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return set()
    return {child for child in children if _is_engine(child)}


def _is_engine(child: psutil.Process) -> bool:
    """Whether a process was started by multiprocessing or has vLLM's process name."""
    try:
        command = " ".join(child.cmdline())
    except psutil.Error:  # it has just ended
        return False
    return "--multiprocessing-fork" in command or command.startswith("VLLM::")


if __name__ == "__main__":
    guard(int(sys.argv[1]))
