"""The Python environment that COMET runs in."""

import fcntl
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptermix.errors import ArtifactError, ResourceError
from adaptermix.files.outputs import Report, cache_folder
from adaptermix.tables import View, pairs

# The packages of the environment and the reasons for their bounds. Scores have changed between
# releases of these packages, so everything that computes a score is pinned.
PINS = (
    "unbabel-comet==2.2.7",  # the newest; requires transformers<5, numpy<2, protobuf<5
    "torch==2.13.0",  # as in adaptermix's own environment; a CPU build if the index offers one
    "transformers==4.57.6",  # the last 4.x release
    "pytorch-lightning==2.6.6",
    "sentencepiece==0.2.0",  # newer ones require protobuf>=5
    # COMET and its torchmetrics import pkg_resources, which setuptools removed. Without it, COMET
    # silently computes `sparsemax_patch` models differently.
    "setuptools<81",
)
# The Python versions that numpy 1 and sentencepiece 0.2.0 have wheels for.
_PYTHONS = ("3.12", "3.11", "3.10")
_REPORTED = ("unbabel-comet", "torch", "transformers", "pytorch-lightning", "numpy")
_RECORD = "adaptermix-comet.json"  # written last: marks a complete environment
_LOCK = "adaptermix-comet.lock"  # created first: marks the folder as adaptermix's
INSTALL_HINT = "run `adaptermix comet install`, or name a Python that has COMET: --comet-python"
# Only packages of the venv, regardless of PYTHONPATH and the like; UTF-8 in every locale.
FLAGS = ("-I", "-X", "utf8")
_VERSIONS = f"""
import comet, json, pkg_resources, platform
from importlib.metadata import version
found = {{name: version(name) for name in {_REPORTED}}}
print(json.dumps({{"python": platform.python_version(), **found}}))
"""


@dataclass(frozen=True)
class Environment(Report):
    """COMET's environment on disk; ``versions`` is empty if nothing is installed."""

    path: str
    installed: bool
    python: str
    versions: dict[str, str]
    megabytes: int

    def view(self) -> View:
        """Return the human-readable view."""
        if not self.installed:
            missing = "not installed; to install it: adaptermix comet install"
            return View([pairs({"COMET": missing, "folder": self.path})])
        versions = {
            name if name != "python" else "python version": version
            for name, version in self.versions.items()
        }
        found = {"COMET": f"installed, {self.megabytes:,} MB", "python": self.python}
        return View([pairs(found | versions)])


@dataclass(frozen=True)
class InstallReport(Environment):
    """An environment, whether this call built it, and how long that took, in seconds."""

    built: bool
    seconds: float

    def view(self) -> View:
        """Return the human-readable view."""
        done = f"built in {self.seconds:.0f} s" if self.built else "it was already installed"
        return View(super().view().shown, [done])


def default_path() -> Path:
    """Return the folder that ``install`` uses by default."""
    return cache_folder() / "comet"


def status(path: Path | None = None) -> Environment:
    """Return what is installed in a folder, by default ``default_path()``, without running it."""
    folder = (path or default_path()).absolute()
    python = folder / "bin" / "python"
    record = _read_record(folder) if python.exists() else None
    if record is None:
        return Environment(str(folder), False, str(python), {}, 0)
    return Environment(str(folder), True, str(python), record["versions"], record["megabytes"])


def install(
    path: Path | None = None,
    *,
    python: str | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> InstallReport:
    """Build COMET's environment, unless it already exists with the current pins.

    A record is written once COMET has been imported from the finished environment. A folder
    without a record counts as not installed, and the next install starts over. An environment with
    other pins is rebuilt. pip reads its usual configuration.

    Args:
        path: Folder of the environment, by default ``default_path()``.
        python: Command or path of the Python to build it with. By default the running one, or if
            it does not support COMET's packages, the newest on the search path that does.
        force: Rebuild the environment even if it exists.
        say: Called with the name of each step, because a step may take minutes.

    Raises:
        ArtifactError: The folder contains something else.
        ResourceError: There is no suitable Python, or the installation failed.
    """
    started = time.monotonic()
    folder = (path or default_path()).absolute()
    with _locked(folder, say) as lock:
        record = _read_record(folder)
        found = status(folder)
        keep = found.installed and record is not None and record["pins"] == list(PINS)
        if not keep or force:
            base = _suitable_python(python)
            _clear(folder)
            try:
                _build(folder, base, lock, say)
            except BaseException:
                _clear(folder)
                raise
            found = status(folder)
    seconds = time.monotonic() - started
    return InstallReport(**found.as_record(), built=not keep or force, seconds=seconds)


@contextmanager
def _locked(folder: Path, say: Callable[[str], None]) -> Iterator[int]:
    """Lock the folder during the build, and yield the lock's file descriptor."""
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder}: not a folder", hint="name another with --path")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _LOCK).is_file():
        raise ArtifactError(
            f"{folder} is not empty, and not an environment made by this command",
            hint="name another folder with --path",
        )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another installation into {folder} is running; waiting for it to finish")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _clear(folder: Path) -> None:
    (folder / _RECORD).unlink(missing_ok=True)  # first, so that nothing counts as installed
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(record, dict) and {"pins", "versions", "megabytes"} <= record.keys()
    return record if known else None


def _suitable_python(wanted: str | None) -> str:
    for candidate in (wanted,) if wanted else (sys.executable, *(f"python{v}" for v in _PYTHONS)):
        version = _python_version(candidate)
        if version in _PYTHONS:
            return candidate
        if wanted:
            found = f"is Python {version}" if version else "does not run as a Python"
            raise ResourceError(
                f"{wanted}: {found}; COMET's packages need one of {', '.join(_PYTHONS)}",
                hint="name another with --python",
            )
    raise ResourceError(
        f"COMET's packages need Python {' or '.join(_PYTHONS)}, and none was found",
        hint="install one and name it: adaptermix comet install --python PATH",
    )


def _python_version(python: str) -> str | None:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [python, "-I", "-c", code], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _build(folder: Path, base: str, lock: int, say: Callable[[str], None]) -> None:
    python = str(folder / "bin" / "python")
    say(f"creating an environment for COMET in {folder}")
    _run([base, "-I", "-m", "venv", str(folder)], lock, f"{base} cannot create an environment")
    say(f"installing {', '.join(PINS)}; this takes a few minutes")
    pip = [python, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--no-input", *PINS], lock, "COMET could not be installed")
    say("checking that COMET can be imported")
    said = _run([python, *FLAGS, "-c", _VERSIONS], lock, "COMET was installed but does not load")
    used = sum(path.lstat().st_blocks for path in folder.rglob("*")) * 512
    record = {
        "pins": list(PINS),
        "versions": json.loads(said.splitlines()[-1]),
        "megabytes": round(used / 1e6),
    }
    partial = folder / f"{_RECORD}.partial"
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / _RECORD)


def _run(command: Sequence[str], lock: int, failure: str) -> str:
    """Run a step of the build and return its output.

    The step inherits the lock: if it outlives a killed install, it still blocks other installs.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, pass_fds=(lock,)
    )
    if done.returncode:
        said = last_line(done.stderr or done.stdout)
        raise ResourceError(
            f"{failure}: {said}",
            hint="fix this and run the command again, or create an environment yourself and name "
            "its Python with --comet-python",
        )
    return done.stdout


def last_line(text: str) -> str:
    """Return the last non-empty line of a text, or ``nothing``."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"
