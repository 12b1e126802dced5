"""Runs the command line again and again for ``record.py``, each time in a process of its own.

The libraries that take seconds to import are imported once, and so is the command line, which every
command imports first. Every command then runs in a fork of this process, as ``python -m
adaptermix`` runs it, so nothing that a command imports later or leaves in memory reaches the next
one. Standard output and error are caught below Python, so that what is caught is what a terminal
would have got.

A line of JSON on standard input is a command: ``arguments``, ``cwd``, its ``environment``, the
``libraries`` to import before (``light`` or ``heavy``), and the files that take ``stdout`` and
``stderr``. The answer is a line with its exit code.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import sys
import traceback
from contextlib import suppress
from typing import Any

MOST_SECONDS = 300  # that a command may take
LIGHT = (
    *("numpy", "pydantic.main", "pydantic.type_adapter", "typer.main", "typer.core", "zoneinfo"),
    *("rich.console", "rich.progress", "rich.table", "blake3", "jaxtyping", "sacrebleu", "torch"),
    "adaptermix.cli.main",
)
HEAVY = ("transformers", "peft", "accelerate", "sqlite3", "vl_convert", "optuna")
# transformers imports the files of its classes when they are first asked for.
CLASSES = ("AutoModelForCausalLM", "AutoTokenizer", "LlamaForCausalLM", "Trainer")


def preload(names: tuple[str, ...]) -> None:
    # The command line sets these before anything is imported, and these libraries read them then.
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    for name in names:
        with suppress(ImportError):
            module = importlib.import_module(name)
            if name == "transformers":
                for attribute in CLASSES:
                    getattr(module, attribute)
    gc.collect()
    gc.freeze()  # a fork does not look through all that again
    del os.environ["TRANSFORMERS_VERBOSITY"], os.environ["HF_HUB_DISABLE_PROGRESS_BARS"]


def run_here(job: dict[str, Any]) -> None:
    """Become the command; never returns."""
    signal.alarm(MOST_SECONDS)
    os.environ |= job["environment"]
    os.chdir(job["cwd"])
    for number, name in ((0, os.devnull), (1, job["stdout"]), (2, job["stderr"])):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        file = os.open(name, flags, 0o644)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["adaptermix", *job["arguments"]]
    sys.path.insert(0, job["cwd"])  # as ``python -m`` has it
    code = 0
    try:
        runpy.run_module("adaptermix", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - what Python does at its top
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    needed = {"light": (LIGHT,), "heavy": (LIGHT, HEAVY)}
    ready: list[tuple[str, ...]] = []
    answers = os.fdopen(os.dup(1), "w")
    jobs = os.fdopen(os.dup(0))
    for line in jobs:
        job = json.loads(line)
        for names in needed[job["libraries"]]:
            if names not in ready:
                preload(names)
                ready.append(names)
        child = os.fork()
        if child == 0:
            run_here(job)
        _, status = os.waitpid(child, 0)
        answers.write(json.dumps({"code": os.waitstatus_to_exitcode(status)}) + "\n")
        answers.flush()
    os._exit(0)  # libraries have things to say at the end of a process that imported them


if __name__ == "__main__":
    main()
