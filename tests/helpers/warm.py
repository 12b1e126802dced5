"""Processes of their own that need not import the libraries, which takes most of their time.

They are forks of a process that has imported them, and nothing of this process is in them.
"""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

IMPORTED = (
    "adaptermix.cli.main",  # first: it sets what the libraries read when they are imported
    "adaptermix.training.task",
    "adaptermix.training.align",
    "adaptermix.evaluation.evaluate",
    "transformers.trainer",
    "transformers.models.llama.modeling_llama",
    "peft",
    "accelerate",
    "optuna",
)
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(IMPORTED))


class Warm:
    """A function in a process of its own, with what tests use of ``subprocess.Popen``."""

    def __init__(self, run, *arguments, cwd=".", **environment):
        self.said = Path(tempfile.mkdtemp())
        for name in ("out", "err"):
            (self.said / name).touch()
        environment = {**os.environ, **environment}
        self._process = CONTEXT.Process(
            target=_become, args=(run, arguments, str(cwd), environment, self.said)
        )
        self._process.start()
        self.kill, self.terminate = self._process.kill, self._process.terminate

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        assert self.poll() is not None, "it should have ended by now"
        return self.returncode

    def communicate(self, timeout=None):
        """Return what it wrote to standard output and standard error, when it has ended."""
        self.wait(timeout)
        return self.stdout, self.stderr

    returncode = property(poll)
    stdout = property(lambda self: (self.said / "out").read_text())
    stderr = property(lambda self: (self.said / "err").read_text())


def command(*arguments, cwd=".", **environment):
    """Start a command as it is typed."""
    return Warm(_typed, *map(str, arguments), cwd=cwd, **environment)


def _typed(*arguments):
    from adaptermix.cli.main import main

    sys.argv = ["adaptermix", *arguments]
    main()


def _become(run, arguments, cwd, environment, said):
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(said / name, os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    run(*arguments)
