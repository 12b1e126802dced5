"""Record what the commands do, and compare it with what they did before.

Every command line of ``commands.py`` is run in a temporary folder. Its exit code, its output and
the files that it writes are compared with those in ``results``, so that a change of the program's
structure that changes anything a user sees is found.

    python tests/system/recorded/record.py                     compare everything
    python tests/system/recorded/record.py --only score eval   compare some groups
    python tests/system/recorded/record.py --update            keep what is found now
    python tests/system/recorded/record.py --fresh             take no forks: slower, the same

A record that differs by no more than its tolerance is left as it is by ``--update``.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from commands import GROUPS, Case, Group
from material import ROOT, WRITERS
from snapshots import Rules, describe, listing, shape_of, words

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
_SHOWN = 6  # differences of one command that are shown
_WIDTH = 100


def environment(scratch: Path) -> dict[str, str]:
    """Return an environment in which output is the same everywhere."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    python_path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return kept | {
        "ADAPTERMIX_CACHE": str(scratch / "cache"),
        "COLUMNS": "100",
        "HF_HUB_OFFLINE": "1",
        "HOME": str(scratch / "home"),
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": python_path,
        "TERM": "dumb",
    }


class Runner(ABC):
    """Runs commands."""

    def run(self, arguments: list[str], cwd: Path, libraries: str) -> tuple[int, str, str]:
        """Run a command and return its exit code, output and errors.

        Args:
            arguments: What is typed behind ``adaptermix``.
            cwd: Where it is typed; the folder above has cache and home.
            libraries: ``light`` where it needs no transformers, else ``heavy``.
        """
        files = [cwd.parent / name for name in ("stdout", "stderr")]
        job = {"arguments": arguments, "cwd": str(cwd), "libraries": libraries}
        job |= {"stdout": str(files[0]), "stderr": str(files[1])}
        code = self.start(job | {"environment": environment(cwd.parent)})
        out, err = (path.read_text(encoding="utf-8") for path in files)
        return code, out, err

    @abstractmethod
    def start(self, job: Mapping[str, Any]) -> int:
        """Run a command, its output and errors in files, and return its exit code."""


class Forks(Runner):
    """Runs commands in forks of one process, which has imported the libraries."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def start(self, job: Mapping[str, Any]) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("driver.py ended")
        return int(json.loads(answer)["code"])


class Fresh(Runner):
    """Runs every command in a Python of its own."""

    def start(self, job: Mapping[str, Any]) -> int:
        command = [sys.executable, "-m", "adaptermix", *job["arguments"]]
        with Path(job["stdout"]).open("w") as stdout, Path(job["stderr"]).open("w") as stderr:
            done = subprocess.run(
                command,
                cwd=job["cwd"],
                env=job["environment"],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        return done.returncode


@contextmanager
def started(is_fresh: bool) -> Iterator[Runner]:
    """Start what runs commands."""
    if is_fresh:
        yield Fresh()
        return
    command = [sys.executable, "-P", str(HERE / "driver.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with tempfile.TemporaryDirectory(prefix="recorded-") as name:
        home = environment(Path(name))
        with subprocess.Popen(command, env=home, cwd=name, text=True, **pipes) as process:
            yield Forks(process)


def run_group(group: Group, runner: Runner) -> dict[str, Any]:
    """Run the commands of a group and return their records by command line."""
    records = {}
    with tempfile.TemporaryDirectory(prefix="recorded-") as name:
        scratch = Path(name).resolve()
        work = scratch / "work"
        work.mkdir()
        (scratch / "home").mkdir()
        WRITERS[group.material](work)
        for case in group.cases:
            if lacking(case):
                continue
            # The same line twice in a group is another case: the folder is not the same.
            line = case.line
            while line in records:
                line += " (again)"
            records[line] = run_case(case, partial(runner.run, libraries=group.libraries), work)
    return records


def lacking(case: Case) -> list[str]:
    """Return the packages that a case needs and that are not installed."""
    return [name for name in case.needs if find_spec(name) is None]


def run_case(case: Case, run: Callable[..., tuple[int, str, str]], work: Path) -> dict[str, Any]:
    """Run a command and record it."""
    places = {"work": work, "cache": work.parent / "cache", "home": work.parent / "home"}
    rules = Rules(places | {"root": ROOT}, case.volatile_hashes)
    before = listing(work)
    code, out, err = run(shlex.split(case.line), work)
    after = listing(work)
    written = [path for path, known in after.items() if before.get(path) != known]
    return {
        "code": code,
        "stdout": _output(case, out, rules),
        "stderr": words(rules.text(err)) if code == 2 else rules.lines(err),
        "written": (
            {path: describe(work / path, rules) for path in written} if case.files else written
        ),
        "removed": [path for path in before if path not in after],
    }


def _output(case: Case, text: str, rules: Rules) -> Any:
    if case.view == "words":
        return words(rules.text(text))
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return rules.lines(text)
    return {"json": shape_of(value) if case.view == "shape" else rules.value(value)}


def compare(name: str, group: Group, found: Mapping[str, Any]) -> list[str]:
    """Return, for every command that does something else than before, a few lines that say what."""
    kept = read_results(name)
    cases = {case.line: case for case in group.cases}
    reports = []
    for line in dict.fromkeys((*kept, *found)):
        case = cases.get(line.replace(" (again)", ""))
        if case is None:
            reports.append(f"adaptermix {line}\n  is recorded, and no longer among the commands")
        elif line not in kept:
            reports.append(f"adaptermix {line}\n  is not recorded yet")
        elif line in found:
            differences = list(case.tolerance.differences(kept[line], found[line]))
            if differences:
                shown = [f"adaptermix {line}", *map(str, differences[:_SHOWN])]
                if len(differences) > _SHOWN:
                    shown.append(f"  and {len(differences) - _SHOWN} more differences")
                reports.append("\n".join(shown))
        elif not lacking(case):
            reports.append(f"adaptermix {line}\n  is recorded, and was not run")
    return reports


def read_results(name: str) -> dict[str, Any]:
    """Return the records of a group, by command line."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def update(name: str, group: Group, found: Mapping[str, Any]) -> None:
    """Keep what was found; records that differ within their tolerance stay as they are."""
    kept = read_results(name)
    cases = {case.line: case for case in group.cases}
    records = {}
    for line, case in ((line, cases[line.replace(" (again)", "")]) for line in found):
        is_same = line in kept and not any(case.tolerance.differences(kept[line], found[line]))
        records[line] = kept[line] if is_same else found[line]
    left_out = {line: kept[line] for line in kept if line in cases and lacking(cases[line])}
    RESULTS.mkdir(exist_ok=True)
    text = formatted(records | left_out)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def formatted(value: Any, indent: str = "") -> str:
    """Write JSON with everything on one line that has room there."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(flat) <= _WIDTH or not isinstance(value, dict | list) or not value:
        return flat
    if isinstance(value, dict) and "sketch" in value:
        return flat
    inner = indent + " "
    if isinstance(value, list):
        parts = [formatted(item, inner) for item in value]
    else:
        parts = [
            f"{json.dumps(key, ensure_ascii=False)}: {formatted(item, inner)}"
            for key, item in value.items()
        ]
    opening, closing = "[]" if isinstance(value, list) else "{}"
    body = f",\n{inner}".join(parts)
    return f"{opening}\n{inner}{body}\n{indent}{closing}"


def examine(name: str, runner: Runner, is_update: bool) -> tuple[int, str]:
    """Run a group, compare or keep what is found, and return how many differ, and what to say."""
    started_at = time.monotonic()
    group = GROUPS[name]
    found = run_group(group, runner)
    if is_update:
        update(name, group, found)
    reports = compare(name, group, found)
    seconds = time.monotonic() - started_at
    left_out = [f"left out: adaptermix {case.line}" for case in group.cases if lacking(case)]
    told = f"{name}: {len(found)} commands, {len(reports)} differ, {seconds:.0f} s"
    return len(reports), "\n".join([told, *reports, *left_out])


def examine_all(names: "SimpleQueue[str]", options: argparse.Namespace) -> int:
    """Examine groups until none is left, say what was found, and return how many differ."""
    failed = 0
    with started(options.fresh) as runner, suppress(Empty):
        while True:
            name = names.get_nowait()
            count, told = examine(name, runner, options.update)
            failed += count
            record = {"group": name, "differ": count, "told": told}
            sys.stdout.write((json.dumps(record) if options.json else told) + "\n")
            sys.stdout.flush()
    return failed


def main() -> int:
    """Compare or update the groups that are asked for."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="keep what is found now")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=GROUPS, default=[*GROUPS])
    parser.add_argument("--fresh", action="store_true", help="start Python for every command")
    parser.add_argument("--jobs", type=int, default=2, help="groups at a time")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each group")
    options = parser.parse_args()
    names: SimpleQueue[str] = SimpleQueue()
    for name in sorted(options.only, key=lambda name: GROUPS[name].libraries, reverse=True):
        names.put(name)  # first those that need few libraries
    with ThreadPoolExecutor(options.jobs) as pool:
        failed = sum(pool.map(examine_all, [names] * options.jobs, [options] * options.jobs))
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
