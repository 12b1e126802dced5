"""Whether processes have ended."""

import time

import psutil


def are_gone(pids, seconds=30):
    """Whether these processes end in time; one that nobody has buried yet is gone too."""
    until = time.monotonic() + seconds
    while any(map(is_alive, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    return not any(map(is_alive, pids))


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
