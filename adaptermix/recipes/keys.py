"""Keys of steps: hashes of everything that a step's output depends on."""

import json
import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from blake3 import blake3

from adaptermix.adapters.format import CONFIG_FILE, RECORD_FILE
from adaptermix.errors import ArtifactError
from adaptermix.files.hub import MODEL_FILES
from adaptermix.files.hub_data import find_data_set
from adaptermix.files.outputs import real_path
from adaptermix.recipes.step import Step
from adaptermix.settings.locations import is_local_data
from adaptermix.settings.values import weight_of
from adaptermix.tasks.metrics.comet_environment import status
from adaptermix.version import __version__

STATE = "steps.json"  # the stored state of the steps, in the folder of the outputs
FORMAT = 1  # version of the key's content; changing it makes all steps run again
# Fields of a record that describe the run and not its result.
VOLATILE = ("seconds", "decoded", "reused", "extracted")
# Settings that change how a step runs, but not its result.
_IMMATERIAL = {
    *("out", "resume", "threads", "cache", "comet_python", "export"),
    *("tensorboard", "report_to", "gradient_checkpointing"),
    *("server_folder", "server_requests", "server_timeout"),
}

# Files that no reader of data opens by itself: recipes, pages, figures, tables, logs and weights.
# Files that a task names are hashed one by one.
_NO_DATA = (
    *(".toml", ".html", ".md", ".svg", ".tex", ".log.jsonl"),
    *(".safetensors", ".bin", ".gguf"),
)
# A folder with one of these is an output: of a recipe, or of one command.
_OUTPUTS = (
    *(STATE, "scores.json", "retrieval.json", "search.json"),
    *(CONFIG_FILE, RECORD_FILE),
)


def step_key(step: Step, out: Path) -> str:
    """Return the hash of everything that a step's output depends on. Its needs must be done."""
    settings = {
        name: _content_of(step, name, value, out)
        for name, value in step.settings
        if name not in _IMMATERIAL
    }
    content = {
        "format": FORMAT,
        "adaptermix": __version__,
        "command": step.command.name,
        "settings": settings,
        "inputs": [_input_content(step, Path(path)) for path in step.inputs],
        "comet": _is_comet_there(step.settings),
    }
    return blake3(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _is_comet_there(settings: Any) -> bool:
    """Whether a step scores with COMET, which is skipped if it is not installed."""
    if "comet" not in getattr(settings, "metrics", ()):
        return False
    return settings.comet_python is not None or status().installed


def _content_of(step: Step, name: str, value: Any, out: Path) -> Any:
    """Return a setting's content for the key: hashes of files and folders, or the value itself."""
    location = step.command.location(name)
    if value is None or location is None:
        return value
    if location in ("path", "data"):
        return _data_content(Path(value), out)
    if location == "paths":
        return [content_hash(path) for path in value]
    if location == "adapters":
        return [_named_content(path) for path in value]
    if location == "weighted-adapters":
        weighted = [weight_of(item) for item in value]
        return [[*_named_content(path), weight] for path, weight in weighted]
    if location == "checkpoint":
        return content_hash(Path(value)) if Path(value).is_file() else value
    if location in ("model", "tokenizer"):
        return _model_content(value) if location == "model" else _tokenizer_content(value)
    if value.endswith(".toml") and Path(value).is_file():
        return [content_hash(Path(value)), _task_data(step.settings, Path(value), out)]
    return value


def _data_content(place: Path, out: Path) -> str:
    """Return the hash of a file or folder; a data set of the Hub is identified by its name."""
    found = find_data_set(str(place))
    if found is not None and not found.is_local:
        return str(place)
    path = Path(found.repository) if found else place
    is_output = path.resolve().is_relative_to(out.resolve())
    content = content_hash(path) if is_output or path.is_file() else data_hash(path, out)
    return ":".join([content, *(found.parts if found else ())])


def _input_content(step: Step, path: Path) -> list[str]:
    """Return the name and hash of an input; of a folder of runs without what the step writes."""
    written = [real_path(place) for place in (step.out, step.export) if place is not None]
    folder = real_path(path)
    if not path.is_dir() or not any(place.is_relative_to(folder) for place in written):
        return _named_content(path)
    files = [
        file
        for file in folder.rglob("*")
        if file.is_file()
        and file.name != STATE
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and not any(file.is_relative_to(place) for place in written)
    ]
    return [path.name, _hash_of_files(folder, files)]


def _named_content(path: str | Path) -> list[str]:
    """Return the name and hash of an adapter or run. The name counts, because tables show it."""
    there = Path(path)
    return [there.name, content_hash(there)] if there.exists() else [str(path)]


def _model_content(name: str) -> Any:
    """Return the content of a model: weights, config, tokenizer, chat template and the like."""
    folder = Path(name)
    if not (folder / "config.json").is_file():
        return name
    from adaptermix.models.files import weights_hash

    try:
        weights = weights_hash(folder)
    except ArtifactError:  # the command says so if it needs them; export only needs the config
        weights = content_hash(folder / "config.json")
    return [weights, *_tokenizer_content(name)]


def _tokenizer_content(name: str) -> Any:
    """Return the content of a tokenizer, its chat template and other small files beside it."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    files = sorted(path for pattern in MODEL_FILES for path in folder.glob(pattern))
    return [
        _named_content(path)
        for path in files
        if path.suffix != ".safetensors" and path.name not in ("config.json", RECORD_FILE)
    ]


def _task_data(settings: Any, path: Path, out: Path) -> list[tuple[str, str]]:
    """Return the names and contents of the files that a task reads in the step's languages.

    They may be outside its folder. Data sets of the Hub are in the task's file.
    """
    from adaptermix.tasks.custom import load_task_file

    folder = getattr(settings, "data_dir", None) or path.parent
    patterns, langs = load_task_file(path).files.values(), getattr(settings, "langs", ())
    names = sorted({pattern.replace("{lang}", lang) for pattern in patterns for lang in langs})
    there = [(name, folder / name) for name in names if is_local_data(name, folder)]
    return [(name, _data_content(place, out)) for name, place in there]


def content_hash(path: Path) -> str:
    """Return the hash of a file, or of the names and contents of all files in a folder.

    Times and counts of the run in JSON files are ignored.
    """
    if path.is_dir():
        return _hash_of_files(path, (file for file in path.rglob("*") if file.is_file()))
    if not path.is_file():
        return "nothing"
    stat = path.stat()
    return _file_hash(path, stat.st_size, stat.st_mtime_ns)


def _hash_of_files(folder: Path, files: Iterable[Path]) -> str:
    digest = blake3()
    for file in sorted(files):
        digest.update(os.fsencode(file.relative_to(folder)))  # a name may be no UTF-8
        digest.update(f"\0{content_hash(file)}\0".encode())
    return digest.hexdigest()


@cache
def _file_hash(path: Path, size: int, changed: int) -> str:
    """Hash a file; within a run, the result is cached by size and modification time."""
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_bytes())
        except ValueError:
            content = None
        if isinstance(content, dict):
            lasting = {k: v for k, v in content.items() if k not in VOLATILE}
            return blake3(json.dumps(lasting, sort_keys=True).encode()).hexdigest()
    digest = blake3(max_threads=blake3.AUTO)
    return digest.update_mmap(path).hexdigest() if size else digest.hexdigest()


def data_hash(folder: Path, out: Path) -> str:
    """Return the hash of the data files in a folder, at any depth, by name and content.

    Recipes, outputs, hidden files and weights are ignored.
    """
    return _hash_of_files(folder, _data_files(folder, (out.resolve(),)))


def _data_files(folder: Path, left_out: tuple[Path, ...]) -> Iterator[Path]:
    """Yield the data files of a folder; a link to a folder above it does not lead into a circle."""
    above = (*left_out, folder.resolve())
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith(".") or (path.is_dir() and path.resolve() in above):
            continue
        if path.is_dir():
            if not any((path / name).is_file() for name in _OUTPUTS):
                yield from _data_files(path, above)
        elif path.is_file() and not path.name.endswith(_NO_DATA):
            yield path
