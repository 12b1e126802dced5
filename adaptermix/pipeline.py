"""Run a recipe: every step once, in order, and again only what has changed.

What is kept of the steps lies in ``steps.json`` in the output folder. A step is finished when its
key and the content of its output are those that stand there. The key is a hash of all that the
output depends on: the command and its settings, the contents of the files and outputs that it
reads, and the version of this package. A step whose inputs come out the same is not run again.

A run that was killed is started again with the same line. Its finished steps stay, a training goes
on from its checkpoint, and an evaluation or search finds its answers in the cache.
"""

import fcntl
import gc
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

from blake3 import blake3
from pydantic import BaseModel

from adaptermix.commands import RUNNERS, OnProgress, Work
from adaptermix.errors import AdaptermixError, ArtifactError, ConfigError, ResourceError
from adaptermix.files.outputs import Report, whole_output, write_json
from adaptermix.recipe import Recipe, Step
from adaptermix.tasks.metrics.comet_environment import status
from adaptermix.version import __version__

STATE = "steps.json"


FORMAT = 1  # of what goes into keys; another number runs all steps again


# What a record holds of how a run went, and not of what came out.
_VOLATILE = ("seconds", "decoded", "reused", "extracted")


# Settings that change how a step runs, and not what comes out.
_IMMATERIAL = {"out", "resume", "threads", "cache", "tensorboard", "comet_python", "export"}


_DATA_DEPTH = 3  # data files are looked for in a folder and up to two levels below it


Status = Literal["finished", "to do", "to do if its inputs change"]


@dataclass(frozen=True)
class StepReport:
    """A step that was run, or had been.

    Attributes:
        status: Whether this run ran it.
        seconds: How long it took, when it ran.
        record: What the command reported, without times and counts of the run.
    """

    name: str
    command: str
    status: Literal["done", "done before"]
    seconds: float
    out: str
    record: dict[str, Any]


@dataclass(frozen=True)
class RecipeReport(Report):
    """What a run of a recipe did."""

    recipe: str
    out: str
    steps: list[StepReport]


@dataclass(frozen=True)
class StepPlan:
    """What a run would do with a step.

    Attributes:
        needs: Steps whose outputs it reads.
        cost: What is known of its size: examples, steps, candidates, answers.
        problem: Why it could not run now, with file and line.
    """

    name: str
    command: str
    status: Status
    needs: list[str]
    cost: dict[str, Any]
    out: str
    problem: str | None = None


@dataclass(frozen=True)
class RecipePlan(Report):
    """What a run of a recipe would do."""

    recipe: str
    out: str
    steps: list[StepPlan]
    problems: list[AdaptermixError] = field(default_factory=list)

    def as_record(self) -> dict[str, Any]:
        """Return the plan as a dictionary for JSON."""
        steps = [asdict(step) for step in self.steps]
        return {"recipe": self.recipe, "out": self.out, "steps": steps}


class Watcher(Protocol):
    """Is told how far a run is."""

    def begin(self, number: int, total: int, step: Step, *, is_finished: bool) -> None:
        """A step begins, or is passed over."""

    def progress(self, step: Step) -> AbstractContextManager[OnProgress]:
        """Return what is told how far the step is."""

    def end(self, step: Step, report: Any) -> None:
        """A step is done; ``report`` is its command's own."""


class Unwatched:
    """A watcher that keeps quiet."""

    def begin(self, number: int, total: int, step: Step, *, is_finished: bool) -> None:
        """Say nothing."""

    def progress(self, step: Step) -> AbstractContextManager[OnProgress]:
        """Show nothing."""
        return nullcontext(lambda *progress: None)

    def end(self, step: Step, report: Any) -> None:
        """Say nothing."""


def plan(recipe: Recipe, *, only: str | None = None, force: bool = False) -> RecipePlan:
    """Say what a run would do, and what would stop it.

    Steps that need no output still to be made are tried by their command's own dry run. Of the
    others the data is read and counted.

    Raises:
        ConfigError: No such step.
    """
    from adaptermix.foresight import check_ahead

    state = _State(recipe.out)
    chosen = _chosen(recipe, only)
    statuses = _statuses(chosen, state, _forced(chosen, only, force))
    steps: list[StepPlan] = []
    problems: list[AdaptermixError] = []
    for step in chosen.steps:
        cost: dict[str, Any] = {}
        problem = step.missing if statuses[step.name] != "finished" else None
        if statuses[step.name] != "finished" and not problem:
            try:
                check_ahead(step, chosen)
                cost = costs(step, is_ready=_is_ready(step, statuses))
            except AdaptermixError as error:
                problem = step.blame(error)
        problems += [problem] if problem else []
        steps.append(
            StepPlan(
                name=step.name,
                command=step.command,
                status=statuses[step.name],
                needs=list(step.needs),
                cost=cost,
                out=str(step.out),
                problem=problem.message if problem else None,
            )
        )
    return RecipePlan(str(recipe.path), str(recipe.out), steps, problems)


def run(
    recipe: Recipe,
    *,
    only: str | None = None,
    force: bool = False,
    watcher: Watcher | None = None,
) -> RecipeReport:
    """Run the steps of a recipe that are not finished.

    Args:
        recipe: The recipe.
        only: Run this step alone, and what it needs that is not finished.
        force: Run finished steps again (with ``only``, that step), and replace what is there.
        watcher: Is told how far the run is.

    Raises:
        AdaptermixError: Whatever stops a step, with the line of the recipe that it comes from.
        ArtifactError: An output that another program made.
        ResourceError: Another run works in the same folder.
    """
    watcher = watcher or Unwatched()
    chosen = _chosen(recipe, only)
    forced = _forced(chosen, only, force)
    with _alone_in(recipe.out):
        state = _State(recipe.out)
        _check_steps(chosen, _statuses(chosen, state, forced))
        reports = []
        for number, step in enumerate(chosen.steps, start=1):
            key = step_key(step, recipe.out)
            is_finished = step.name not in forced and state.is_finished(step, key)
            watcher.begin(number, len(chosen.steps), step, is_finished=is_finished)
            if not is_finished:
                _run_step(step, key, state, watcher, force=force)
            reports.append(state.report(step, "done before" if is_finished else "done"))
    return RecipeReport(str(recipe.path), str(recipe.out), reports)


def _run_step(step: Step, key: str, state: "_State", watcher: Watcher, *, force: bool) -> None:
    if step.out.exists() and not state.made(step) and not force:
        where = f"{step.path}:{step.line()}: [{step.name}]"
        raise ArtifactError(
            f"{where} {step.out} exists, and no run of a recipe made it",
            hint="choose another --out, or pass --force",
        )
    is_resumed = state.was_begun(step, key)
    _sweep(step, is_resumed)
    settings = step.settings
    if is_resumed and "resume" in type(settings).model_fields:
        settings = settings.model_copy(update={"resume": True})
    state.begin(step, key)
    started = time.monotonic()
    with watcher.progress(step) as on_progress, _blaming(step):
        report = _carry_out(step, settings, on_progress=on_progress)
    record = {k: v for k, v in report.as_record().items() if k not in _VOLATILE}
    if "out" not in type(settings).model_fields:
        with whole_output(step.out) as partial:
            write_json(partial, record)
    state.finish(step, key, record, round(time.monotonic() - started, 1))
    watcher.end(step, report)
    del report
    _free_memory()


def _carry_out(step: Step, settings: Any, **options: Any) -> Any:
    work = Work(settings, [Path(path) for path in step.inputs], step.out, **options)
    return RUNNERS[step.command](work)


def _free_memory() -> None:
    """Let go of the models and engines of a step before the next one loads its own."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _sweep(step: Step, is_resumed: bool) -> None:
    """Remove what a killed run left beside the output, but for checkpoints to go on from."""
    for left in step.out.parent.glob(f".{step.out.name}.*"):
        if left.is_dir() and not (is_resumed and left.name.endswith(".training")):
            shutil.rmtree(left)


def _chosen(recipe: Recipe, only: str | None) -> Recipe:
    return recipe if only is None else recipe.with_needs(only)


def _forced(recipe: Recipe, only: str | None, force: bool) -> set[str]:
    if not force:
        return set()
    return {only} if only is not None else {step.name for step in recipe.steps}


def _statuses(recipe: Recipe, state: "_State", forced: set[str]) -> dict[str, Status]:
    """Say of every step whether it must run, as far as its needs are there to tell."""
    statuses: dict[str, Status] = {}
    for step in recipe.steps:
        if step.name in forced:
            statuses[step.name] = "to do"
        elif not _is_ready(step, statuses):
            waits = state.made(step) and step.out.exists()
            statuses[step.name] = "to do if its inputs change" if waits else "to do"
        else:
            finished = state.is_finished(step, step_key(step, recipe.out))
            statuses[step.name] = "finished" if finished else "to do"
    return statuses


def _is_ready(step: Step, statuses: Mapping[str, Status]) -> bool:
    return all(statuses[need] == "finished" for need in step.needs)


def _check_steps(recipe: Recipe, statuses: Mapping[str, Status]) -> None:
    """Check steps to come and read their data: a gap is seen before the first hour, not after."""
    from adaptermix.foresight import check_ahead

    steps = [step for step in recipe.steps if statuses[step.name] != "finished"]
    for step in steps:
        if step.missing:
            raise step.missing
        with _blaming(step):
            check_ahead(step, recipe)
    for step in steps:
        with _blaming(step):
            count_examples(step.settings)


@contextmanager
def _blaming(step: Step) -> Iterator[None]:
    """Say of an error where in the recipe its cause stands."""
    try:
        yield
    except AdaptermixError as error:
        raise step.blame(error) from error


def costs(step: Step, *, is_ready: bool) -> dict[str, Any]:
    """Return what is known of a step's size before it runs.

    Raises:
        AdaptermixError: What would stop the step.
    """
    settings: Any = step.settings
    examples = count_examples(settings)
    known: dict[str, Any] = {"examples": examples} if examples else {}
    if is_ready and step.command not in ("score", "inspect"):
        record = _carry_out(step, settings, dry_run=True).as_record()
        telling = ("examples", "planned_steps", "longest_prompt", "candidates", "rank", "modules")
        known |= {name: record[name] for name in telling if record.get(name)}
    elif hasattr(settings, "epochs"):
        known["planned_steps"] = planned_steps(settings, examples)
    if "candidates" not in known and getattr(settings, "search", None):
        from adaptermix.search.candidates import first_candidates

        names = [Path(path).name.removesuffix(".safetensors") for path in step.inputs]
        known["candidates"] = [found.name for found in first_candidates(names, settings)]
    systems = len(known.get("candidates", ()))
    if step.command == "eval":
        systems = len(settings.adapters) + (not settings.exclude_base)
    if systems:
        known["answers"] = systems * sum(examples.values())
    return known


def planned_steps(settings: Any, examples: Mapping[str, int]) -> int:
    """Return the optimizer steps of a training at most, by the number of its examples."""
    if settings.max_steps:
        return int(settings.max_steps)
    rows = sum(examples.values())
    fields = type(settings).model_fields
    if "alternate" in fields:  # as many pairs as task examples
        rows = 2 * sum(count for name, count in examples.items() if name not in settings.pairs)
    elif "pairs" in fields:  # languages are repeated up to the largest
        rows = max(examples.values()) * len(examples)
    return max(1, int(settings.epochs * -(-rows // settings.batch_size)))


def count_examples(settings: Any) -> dict[str, int]:
    """Return how many examples a step reads of each language, before any are held out.

    Raises:
        DataError: A language without data, a missing or malformed file.
        ResourceError: Data that must come from the hub and cannot.
    """
    counts: dict[str, int] = {}
    fields = type(settings).model_fields
    limit = getattr(settings, "limit", None)
    if "pairs" in fields:
        folder = settings.pairs_dir or settings.data_dir
        counts |= {pair: _count_pairs(pair, folder) for pair in settings.pairs}
    if "pivot" in fields and settings.data_dir is not None:
        counts |= _count_sentences(settings.langs, settings.split, settings.data_dir)
    if "langs" in fields and "task" in fields and _asks_data(settings):
        for split in reversed(_splits(settings)):
            for lang in settings.langs:
                counts[lang] = _count_task(settings, lang, split)
    return {lang: min(count, limit or count) for lang, count in counts.items()}


def _asks_data(settings: Any) -> bool:
    """Whether a command that can read a task's data does: a merge only when it searches."""
    is_chat = getattr(settings, "chat", None) is not None
    return not is_chat and getattr(settings, "search", "none") is not None


def _splits(settings: Any) -> tuple[str, ...]:
    """Return the parts of the data that are read, the one that is counted first."""
    if hasattr(settings, "epochs"):
        return ("train", "dev")
    return (getattr(settings, "split", "dev"),)


@cache
def _count_pairs(pair: str, folder: Path | None) -> int:
    from adaptermix.data.pairs import read_pairs

    return len(read_pairs(pair, folder))


def _count_task(settings: Any, lang: str, split: str) -> int:
    if getattr(settings, "src", None) is not None:
        from adaptermix.tasks.translation import read_translations

        return len(read_translations(settings.src, settings.ref, lang))
    return _count_records(settings.task, lang, split, settings.data_dir)


@cache
def _count_sentences(langs: tuple[str, ...], split: str, folder: Path) -> dict[str, int]:
    from adaptermix.data.multiway import read_multiway

    return {lang: len(texts) for lang, texts in read_multiway(langs, split, folder).items()}


@cache
def _count_records(task: str, lang: str, split: Any, folder: Path | None) -> int:
    from adaptermix.tasks.catalog import make_task

    return len(make_task(task).read(lang, split, folder))


def step_key(step: Step, out: Path) -> str:
    """Return the hash of all that a step's output depends on; its needs are done."""
    settings = {
        name: _content_of(step.settings, name, value, out)
        for name, value in step.settings
        if name not in _IMMATERIAL
    }
    content = {
        "format": FORMAT,
        "adaptermix": __version__,
        "command": step.command,
        "settings": settings,
        "inputs": [_named_content(path) for path in step.inputs],
        "comet": _is_comet_there(step.settings),
    }
    return blake3(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _is_comet_there(settings: Any) -> bool:
    """Whether a step scores with COMET; where it is not installed, other metrics do without."""
    if "comet" not in getattr(settings, "metrics", ()):
        return False

    return settings.comet_python is not None or status().installed


def _content_of(settings: BaseModel, name: str, value: Any, out: Path) -> Any:
    """Return what a setting stands for: the contents of files and folders, else itself."""
    if isinstance(value, Path):
        is_output = value.resolve().is_relative_to(out.resolve())
        return content_hash(value) if is_output or value.is_file() else data_hash(value, out)
    if isinstance(value, tuple) and value and isinstance(value[0], Path):
        return [content_hash(path) for path in value]
    if name == "adapters":
        return [_named_content(path) for path in value]
    if name in ("model", "into") and value is not None:
        return _model_content(value)
    if name == "task" and value.endswith(".toml") and Path(value).is_file():
        own_data = getattr(settings, "data_dir", None) is None
        return [content_hash(Path(value)), _task_data(Path(value)) if own_data else None]
    return value


def _named_content(path: str | Path) -> list[str]:
    """Return the name and the content of an adapter or a run: tables show its name."""
    there = Path(path)
    return [there.name, content_hash(there)] if there.exists() else [str(path)]


def _model_content(name: str) -> str:
    folder = Path(name)
    if not (folder / "config.json").is_file():
        return name
    from adaptermix.models.files import fingerprint

    return fingerprint(folder)


def _task_data(path: Path) -> list[tuple[str, str]]:
    from adaptermix.tasks.custom import load_task_file

    patterns = [pattern.replace("{lang}", "*") for pattern in load_task_file(path).files.values()]
    found = sorted({file for pattern in patterns for file in path.parent.glob(pattern)})
    return [(file.name, content_hash(file)) for file in found]


def content_hash(path: Path) -> str:
    """Return the hash of a file, or of all files in a folder and their names.

    Times and counts of a run are left out of JSON records.
    """
    if path.is_dir():
        digest = blake3()
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path)}\0{content_hash(file)}\0".encode())
        return digest.hexdigest()
    if not path.is_file():
        return "nothing"
    stat = path.stat()
    return _file_hash(path, stat.st_size, stat.st_mtime_ns)


@cache
def _file_hash(path: Path, size: int, changed: int) -> str:
    """Hash a file; its size and time stand for its content within a run."""
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_bytes())
        except ValueError:
            content = None
        if isinstance(content, dict):
            lasting = {k: v for k, v in content.items() if k not in _VOLATILE}
            return blake3(json.dumps(lasting, sort_keys=True).encode()).hexdigest()
    digest = blake3(max_threads=blake3.AUTO)
    return digest.update_mmap(path).hexdigest() if size else digest.hexdigest()


def data_hash(folder: Path, out: Path) -> str:
    """Return the hash of the data files that commands find in a folder, by name and content.

    Commands look two levels deep. Outputs of the recipe and hidden files are no data, and neither
    are weights.
    """
    digest = blake3()
    for file in sorted(_data_files(folder, out.resolve(), _DATA_DEPTH)):
        digest.update(f"{file.relative_to(folder)}\0{content_hash(file)}\0".encode())
    return digest.hexdigest()


def _data_files(folder: Path, out: Path, depth: int) -> Iterator[Path]:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith(".") or path.resolve() == out:
            continue
        if path.is_dir() and depth > 1:
            yield from _data_files(path, out, depth - 1)
        elif path.is_file() and path.suffix not in (".safetensors", ".bin"):
            yield path


class _State:
    """What is known of the steps whose outputs lie in a folder; written whole at every change."""

    def __init__(self, out: Path) -> None:
        self.path = out / STATE
        self.steps: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            try:
                self.steps = dict(json.loads(self.path.read_text(encoding="utf-8"))["steps"])
            except (ValueError, KeyError, TypeError) as error:
                raise ArtifactError(
                    f"{self.path}: not the record of a recipe's steps",
                    hint="delete it; all steps run again",
                ) from error

    def made(self, step: Step) -> bool:
        """Whether a run began to make the step's output."""
        return step.name in self.steps

    def is_finished(self, step: Step, key: str) -> bool:
        entry = self.steps.get(step.name, {})
        is_same = entry.get("status") == "finished" and entry.get("key") == key
        return is_same and entry.get("content") == content_hash(step.out)

    def was_begun(self, step: Step, key: str) -> bool:
        """Whether a run with the same key began the step and did not end it."""
        entry = self.steps.get(step.name, {})
        return entry.get("status") == "begun" and entry.get("key") == key

    def begin(self, step: Step, key: str) -> None:
        self._put(step, {"status": "begun", "key": key})

    def finish(self, step: Step, key: str, record: dict[str, Any], seconds: float) -> None:
        entry = {"status": "finished", "key": key, "content": content_hash(step.out)}
        self._put(step, entry | {"out": step.out.name, "seconds": seconds, "record": record})

    def report(self, step: Step, status: Literal["done", "done before"]) -> StepReport:
        entry = self.steps[step.name]
        return StepReport(
            step.name, step.command, status, entry["seconds"], str(step.out), entry["record"]
        )

    def _put(self, step: Step, entry: dict[str, Any]) -> None:
        self.steps[step.name] = {"command": step.command} | entry
        with whole_output(self.path) as partial:
            write_json(partial, {"adaptermix": __version__, "steps": self.steps})


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keep other runs out of the folder; the lock goes with the process, however it ends."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is no folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written to: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ResourceError(
                f"{out}: another run works here", hint="wait for it, or choose another --out"
            ) from error
        yield
