"""COMET in a Python environment of its own: install it there, and score segments with it.

COMET's package needs transformers 4, vLLM needs transformers 5, so the two never meet in one
process. This module imports neither: it runs ``comet_worker.py`` with COMET's interpreter and
passes files. COMET checkpoints are pickles, which can run code when they are opened; they are
opened in that other process only.
"""

import fcntl
import importlib.resources
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from adaptermix.errors import ArtifactError, DataError, ResourceError
from adaptermix.files.outputs import Report

DEFAULT_MODEL = "Unbabel/wmt22-comet-da"

# What goes into the environment, and why there are bounds. Scores have moved between releases of
# these packages, so everything that computes one is pinned.
PINS = (
    "unbabel-comet==2.2.7",  # the newest; wants transformers<5, numpy<2, protobuf<5
    "torch==2.13.0",  # as in our own environment; has a CPU build where an index offers one
    "transformers==4.57.6",  # the last of 4.x
    "pytorch-lightning==2.6.6",
    "sentencepiece==0.2.0",  # newer ones want protobuf>=5
    # COMET and its torchmetrics import pkg_resources, which setuptools dropped. Without it COMET
    # says nothing and computes `sparsemax_patch` models in another way.
    "setuptools<81",
)
# The Pythons that numpy 1 and sentencepiece 0.2.0 have wheels for.
_PYTHONS = ("3.12", "3.11", "3.10")
_REPORTED = ("unbabel-comet", "torch", "transformers", "pytorch-lightning", "numpy")
_RECORD = "adaptermix-comet.json"  # written last: where it is, the environment is whole
_LOCK = "adaptermix-comet.lock"  # made first: where it is, the folder is ours
INSTALL_HINT = "run `adaptermix comet install`, or name a Python that has COMET: --comet-python"
_HUB_HINT = (
    "run once with network access, which fills the hub's cache, or name a checkpoint on disk: "
    "its .ckpt file or folder"
)
_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+(?<!\.ckpt)")
# Only what its venv holds, whatever PYTHONPATH and the like say; UTF-8 in every locale.
_FLAGS = ("-I", "-X", "utf8")

_VERSIONS = f"""
import comet, json, pkg_resources, platform
from importlib.metadata import version
found = {{name: version(name) for name in {_REPORTED}}}
print(json.dumps({{"python": platform.python_version(), **found}}))
"""


@dataclass(frozen=True)
class Environment(Report):
    """COMET's environment as it is on disk; ``versions`` is empty where nothing is installed."""

    path: str
    installed: bool
    python: str
    versions: dict[str, str]
    megabytes: int


@dataclass(frozen=True)
class InstallReport(Environment):
    """An environment, whether this call built it, and the seconds it took."""

    built: bool
    seconds: float


class Translations(NamedTuple):
    """One system's translations of one test set, segment by segment."""

    sources: Sequence[str]
    hypotheses: Sequence[str]
    references: Sequence[str]


class CometScores(NamedTuple):
    """Segment scores, one list for every ``Translations``, and what computed them."""

    segments: list[list[float]]
    signature: str


def default_path() -> Path:
    """Return the folder that ``install`` uses when it is told none."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    cache = os.environ.get("ADAPTERMIX_CACHE") or f"{caches}/adaptermix"
    return Path(cache).expanduser() / "comet"


def status(path: Path | None = None) -> Environment:
    """Say what is installed in the folder, the default one without ``path``; starts nothing."""
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
    """Build COMET's environment, unless it is there already with today's pins.

    A record is written when COMET has been imported from the finished environment; a folder
    without it counts as nothing, and the next install starts over. pip reads its usual
    configuration. An environment with other pins is rebuilt, and so is any with ``force``.

    Args:
        path: Folder of the environment, ``default_path()`` without it.
        python: Command or path of the Python to build it with; without it, this one or, where
            COMET's packages do not run on it, the newest on the search path that they run on.
        force: Build it again even if it is there.
        say: Is told what begins, for minutes may pass.

    Raises:
        ArtifactError: The folder holds something else.
        ResourceError: No suitable Python, or pip could not do it.
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
    """Own the folder while it is built; give the lock's file descriptor."""
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder}: is not a folder", hint="name another with --path")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _LOCK).is_file():
        raise ArtifactError(
            f"{folder}: is not empty and not an environment made by this command",
            hint="name another folder with --path",
        )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another install into {folder} is running; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _clear(folder: Path) -> None:
    (folder / _RECORD).unlink(missing_ok=True)  # first: from here on nothing looks installed
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
    say(f"making an environment for COMET in {folder}")
    _run([base, "-I", "-m", "venv", str(folder)], lock, f"{base} cannot make an environment")
    say(f"installing {', '.join(PINS)}; this takes minutes")
    pip = [python, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--no-input", *PINS], lock, "COMET could not be installed")
    say("importing COMET there")
    said = _run([python, *_FLAGS, "-c", _VERSIONS], lock, "COMET was installed but does not load")
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

    The step inherits the lock, so that one that outlives a killed install keeps others out.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, pass_fds=(lock,)
    )
    if done.returncode:
        said = _last_line(done.stderr or done.stdout)
        raise ResourceError(
            f"{failure}: {said}",
            hint="mend that and run it again, or make an environment yourself and name its Python "
            "with --comet-python",
        )
    return done.stdout


def segment_scores(
    sources: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    model: str = DEFAULT_MODEL,
    python: Path | None = None,
    timeout_seconds: float | None = None,
) -> list[float]:
    """Score translations with COMET, one score a segment; see ``segment_scores_many``."""
    translations = Translations(sources, hypotheses, references)
    scores = segment_scores_many(
        [translations], model=model, python=python, timeout_seconds=timeout_seconds
    )
    return scores.segments[0]


def segment_scores_many(
    systems: Sequence[Translations],
    *,
    model: str = DEFAULT_MODEL,
    python: Path | None = None,
    timeout_seconds: float | None = None,
) -> CometScores:
    """Score any number of systems in one process, so that the model is loaded once.

    The scores are those of COMET's own ``predict`` in float32, called once a system with its
    defaults, on a GPU if COMET's torch sees one. A segment's score depends on its batch in the
    last digits, so systems are not mixed. The ``comet-score`` command of COMET 2.2.7 gives
    slightly other scores, for it rounds the model to float16.

    Args:
        systems: What to score; sources, hypotheses and references of equal number each.
        model: Hub name, or path of a local ``.ckpt`` file or of the folder that holds it. COMET
            wants ``hparams.yaml`` in the folder above the file's.
        python: Interpreter that has COMET; without it, that of the installed environment.
        timeout_seconds: Stop waiting after this long; None waits for ever.

    Raises:
        DataError: Lists of different lengths, or nothing to score.
        ArtifactError: A model that is not there or is no COMET checkpoint.
        ResourceError: COMET is not installed, its model cannot be had, or its process failed.
    """
    _check(systems)
    job = _locate(model) | {
        "systems": [
            [
                {"src": source, "mt": hypothesis, "ref": reference}
                for source, hypothesis, reference in zip(*system, strict=True)
            ]
            for system in systems
        ]
    }
    interpreter = _interpreter(python)
    with tempfile.TemporaryDirectory(prefix="adaptermix-comet-") as scratch:
        ended, answer = _ask(interpreter, job, Path(scratch), timeout_seconds)
    if "scores" not in answer:
        raise _failure(answer, ended, model, interpreter)
    return CometScores(_checked(answer, systems, model), _signature(answer, model))


def _check(systems: Sequence[Translations]) -> None:
    for sources, hypotheses, references in systems:
        counts = len(sources), len(hypotheses), len(references)
        if not references:
            raise DataError("COMET has no references to score against")
        if len(set(counts)) > 1:
            raise DataError("COMET got {} sources, {} hypotheses and {} references".format(*counts))


def _locate(model: str) -> dict[str, str]:
    """Return where the worker finds the model: a checkpoint's path, or a repository's name."""
    path = Path(model).expanduser().absolute()
    if path.is_dir():
        found = sorted([*path.glob("*.ckpt"), *path.glob("checkpoints/*.ckpt")])
        if len(found) != 1:
            raise ArtifactError(
                f"{model}: has {len(found)} .ckpt files, there and in checkpoints",
                hint="name the folder of a COMET model, or one .ckpt file",
            )
        path = found[0]
    if not path.is_file():
        if _HUB_NAME.fullmatch(model):
            return {"repository": model}
        raise ArtifactError(
            f"{model}: neither a COMET checkpoint nor a hub name",
            hint=f"name a .ckpt file, its folder, or a hub model such as {DEFAULT_MODEL}",
        )
    settings = path.parent.parent / "hparams.yaml"
    if not settings.is_file():
        raise ArtifactError(
            f"{settings}: is missing; COMET reads it beside the folder of {path.name}",
            hint="copy the whole model: hparams.yaml and checkpoints/model.ckpt",
        )
    return {"checkpoint": str(path)}


def _interpreter(python: Path | None) -> Path:
    """Return COMET's interpreter; not resolved, since a venv is known by the link's place."""
    if python is not None:
        if not python.is_file():
            raise ResourceError(f"{python}: there is no Python", hint=INSTALL_HINT)
        return python.absolute()
    found = status()
    if not found.installed:
        raise ResourceError("COMET is not installed", hint=INSTALL_HINT)
    return Path(found.python)


def _ask(
    python: Path, job: dict[str, Any], scratch: Path, timeout_seconds: float | None
) -> tuple[str, dict[str, Any]]:
    """Run the worker; return how it ended and its answer, empty if there is none.

    Everything the libraries print goes to a file, and the answer to another.
    """
    asked, answered, said = (scratch / name for name in ("job.json", "answer.json", "said"))
    asked.write_text(json.dumps(job), encoding="utf-8")
    package = importlib.resources.files("adaptermix")
    with (
        importlib.resources.as_file(package / "comet_worker.py") as worker,
        said.open("wb") as log,
    ):
        try:
            done = subprocess.run(
                [python, *_FLAGS, worker, asked, answered],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=timeout_seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise ResourceError(f"COMET gave no answer in {timeout_seconds:g} s") from error
        except OSError as error:
            raise ResourceError(
                f"{python}: cannot be run: {error.strerror}", hint=INSTALL_HINT
            ) from error
    line = _last_line(said.read_text(encoding="utf-8", errors="replace"))
    try:
        answer = json.loads(answered.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        answer = None
    ended = f"its process ended with code {done.returncode}, its last words: {line}"
    return ended, answer if isinstance(answer, dict) else {}


def _failure(
    answer: dict[str, Any], ended: str, model: str, python: Path
) -> ArtifactError | ResourceError:
    """Tell which step of the worker failed, and why."""
    stage, error = answer.get("stage"), answer.get("error")
    why = error or ended
    if stage == "import":
        return ResourceError(f"{python} cannot import COMET: {why}", hint=INSTALL_HINT)
    if stage == "fetch":
        return ResourceError(
            f"the COMET model {model} cannot be had from the hub: {why}", hint=_HUB_HINT
        )
    if stage == "load" and answer.get("is_lacking"):
        return ResourceError(
            f"the COMET model {model} lacks a file, maybe of its encoder: {why}", hint=_HUB_HINT
        )
    if stage == "load" and error:
        return ArtifactError(f"{model}: not a checkpoint that COMET can load: {why}")
    return ResourceError(f"COMET stopped without scores: {why}")


def _checked(
    answer: dict[str, Any], systems: Sequence[Translations], model: str
) -> list[list[float]]:
    scores = answer["scores"]
    expected = [len(system.references) for system in systems]
    if not isinstance(scores, list) or [_length(part) for part in scores] != expected:
        raise ResourceError(f"COMET did not give one score a segment; expected {expected}")
    if not all(isinstance(x, float) and math.isfinite(x) for part in scores for x in part):
        raise ArtifactError(f"{model}: gives scores that are not finite numbers")
    return scores


def _length(part: Any) -> int | None:
    return len(part) if isinstance(part, list) else None


def _signature(answer: dict[str, Any], model: str) -> str:
    versions = answer.get("versions", {})
    return "|".join(
        [
            "comet",
            f"model:{model}",
            "dtype:float32",
            *(f"{name}:{version}" for name, version in versions.items()),
        ]
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"
