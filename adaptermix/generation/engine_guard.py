"""Ends an engine whose command is gone: a script that runs beside vLLM, imported by nothing here.

    python engine_guard.py PID

vLLM's core is a process of its own, and in 0.32 it does not notice when the process that started
it is killed (by SIGKILL, SIGTERM, or for want of memory). It would hold the GPU for ever, and the
same command, started again, would find no room. This process sees the other die, whatever killed
it, and then ends the processes that it started.
"""

import os
import sys
import time
from contextlib import suppress

import psutil

_PAUSE = 1.0  # seconds between two looks
_PATIENCE = 5.0  # seconds that processes have to end by themselves once they are asked to


def guard(parent: int) -> None:
    """Wait until the process that started this one is gone, then end what it leaves behind."""
    engines: set[psutil.Process] = set()
    while os.getppid() == parent:
        engines |= _engines_below(parent)
        time.sleep(_PAUSE)
    for engine in tuple(engines):  # what these have started since
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
    """Whether it was started by multiprocessing, or has the name that vLLM gives its own."""
    try:
        command = " ".join(child.cmdline())
    except psutil.Error:  # it ended just now
        return False
    return "--multiprocessing-fork" in command or command.startswith("VLLM::")


if __name__ == "__main__":
    guard(int(sys.argv[1]))
