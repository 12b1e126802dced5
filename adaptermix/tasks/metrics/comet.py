"""Score segments with COMET, which runs in a separate Python environment.

COMET's package needs transformers 4 and vLLM needs transformers 5, so they cannot share a process.
This module imports neither: it runs ``comet_worker.py`` with COMET's interpreter and exchanges
files with it. COMET checkpoints are pickles, which can run code when they are loaded; only that
other process loads them.
"""

import importlib.resources
import json
import math
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from adaptermix.errors import ArtifactError, DataError, ResourceError
from adaptermix.tasks.metrics.comet_environment import FLAGS, INSTALL_HINT, last_line, status

DEFAULT_MODEL = "Unbabel/wmt22-comet-da"
_HUB_HINT = (
    "run the command once with network access to fill the Hub cache, or name a local "
    "checkpoint (a .ckpt file or its folder)"
)
_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+(?<!\.ckpt)")


class Translations(NamedTuple):
    """One system's translations of one test set, one per segment."""

    sources: Sequence[str]
    hypotheses: Sequence[str]
    references: Sequence[str]


class CometScores(NamedTuple):
    """Segment scores, one list per ``Translations``, and the signature of the metric."""

    segments: list[list[float]]
    signature: str


def segment_scores(
    sources: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    model: str = DEFAULT_MODEL,
    python: Path | None = None,
    timeout_seconds: float | None = None,
) -> list[float]:
    """Score translations with COMET, one score per segment; see ``segment_scores_many``."""
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

    The scores are those of COMET's own ``predict`` in float32, called once per system with its
    defaults, on a GPU if COMET's torch finds one. The last digits of a segment's score depend on
    its batch, so systems are not mixed. The ``comet-score`` command of COMET 2.2.7 gives slightly
    different scores, because it rounds the model to float16.

    Args:
        systems: Systems to score, each with equally many sources, hypotheses and references.
        model: Hub name, or path of a local ``.ckpt`` file or of the folder that contains it. COMET
            needs ``hparams.yaml`` in the folder above the file's folder.
        python: Interpreter with COMET; by default, that of the installed environment.
        timeout_seconds: Maximum time to wait, in seconds; None waits indefinitely.

    Raises:
        DataError: The lists differ in length, or there is nothing to score.
        ArtifactError: The model does not exist or is not a COMET checkpoint.
        ResourceError: COMET is not installed, its model cannot be downloaded, or its process
            failed.
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


def check_comet(model: str, python: Path | None = None) -> None:
    """Check that the interpreter exists, and the model, unless it is a name on the Hub.

    Raises:
        ArtifactError: The model does not exist or is not a COMET checkpoint.
        ResourceError: COMET is not installed.
    """
    _interpreter(python)
    _locate(model)


def _check(systems: Sequence[Translations]) -> None:
    for sources, hypotheses, references in systems:
        counts = len(sources), len(hypotheses), len(references)
        if not references:
            raise DataError("COMET has no references to score against")
        if len(set(counts)) > 1:
            raise DataError("COMET got {} sources, {} hypotheses and {} references".format(*counts))


def _locate(model: str) -> dict[str, str]:
    """Return where the worker finds the model: the path of a checkpoint, or a repository name."""
    path = Path(model).expanduser().absolute()
    if path.is_dir():
        found = sorted([*path.glob("*.ckpt"), *path.glob("checkpoints/*.ckpt")])
        if len(found) != 1:
            raise ArtifactError(
                f"{model} contains {len(found)} .ckpt files, in this folder and in checkpoints",
                hint="name the folder of a COMET model, or one .ckpt file",
            )
        path = found[0]
    if not path.is_file():
        if _HUB_NAME.fullmatch(model):
            return {"repository": model}
        raise ArtifactError(
            f"{model}: neither a COMET checkpoint nor a name on the Hub",
            hint=f"name a .ckpt file, its folder, or a model on the Hub such as {DEFAULT_MODEL}",
        )
    settings = path.parent.parent / "hparams.yaml"
    if not settings.is_file():
        raise ArtifactError(
            f"{settings}: no such file; COMET needs it next to the folder of {path.name}",
            hint="copy the whole model: hparams.yaml and checkpoints/model.ckpt",
        )
    return {"checkpoint": str(path)}


def _interpreter(python: Path | None) -> Path:
    """Return COMET's interpreter, without resolving links: the path identifies the venv."""
    if python is not None:
        if not python.is_file():
            raise ResourceError(f"{python}: no such Python interpreter", hint=INSTALL_HINT)
        return python.absolute()
    found = status()
    if not found.installed:
        raise ResourceError("COMET is not installed", hint=INSTALL_HINT)
    return Path(found.python)


def _ask(
    python: Path, job: dict[str, Any], scratch: Path, timeout_seconds: float | None
) -> tuple[str, dict[str, Any]]:
    """Run the worker. Return how it ended, and its answer, which is empty if there is none.

    The libraries' output and the answer go to separate files.
    """
    asked, answered, said = (scratch / name for name in ("job.json", "answer.json", "said"))
    asked.write_text(json.dumps(job), encoding="utf-8")
    package = importlib.resources.files("adaptermix.tasks.metrics")
    with (
        importlib.resources.as_file(package / "comet_worker.py") as worker,
        said.open("wb") as log,
    ):
        try:
            done = subprocess.run(
                [python, *FLAGS, worker, asked, answered],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=timeout_seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise ResourceError(f"COMET did not respond within {timeout_seconds:g} s") from error
        except OSError as error:
            raise ResourceError(
                f"{python}: cannot be run: {error.strerror}", hint=INSTALL_HINT
            ) from error
    line = last_line(said.read_text(encoding="utf-8", errors="replace"))
    try:
        answer = json.loads(answered.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        answer = None
    ended = f"its process ended with code {done.returncode}; its last line of output: {line}"
    return ended, answer if isinstance(answer, dict) else {}


def _failure(
    answer: dict[str, Any], ended: str, model: str, python: Path
) -> ArtifactError | ResourceError:
    """Return the error for the step of the worker that failed."""
    stage, error = answer.get("stage"), answer.get("error")
    why = error or ended
    if stage == "import":
        return ResourceError(f"{python} cannot import COMET: {why}", hint=INSTALL_HINT)
    if stage == "fetch":
        return ResourceError(
            f"the COMET model {model} could not be downloaded from the Hub: {why}", hint=_HUB_HINT
        )
    if stage == "load" and answer.get("is_lacking"):
        return ResourceError(
            f"the COMET model {model} is incomplete; a file is missing, possibly one of its "
            f"encoder's: {why}",
            hint=_HUB_HINT,
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
        raise ResourceError(f"COMET did not return one score per segment; expected {expected}")
    if not all(isinstance(x, float) and math.isfinite(x) for part in scores for x in part):
        raise ArtifactError(f"{model} returns scores that are not finite")
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
