"""Outputs of commands: reports, and atomic writes of files and folders."""

import errno
import glob
import json
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptermix.errors import ArtifactError, ConfigError, ResourceError
from adaptermix.tables import View

if TYPE_CHECKING:  # importing it takes longer than printing help
    from filelock import FileLock


def cache_folder() -> Path:
    """Return the cache folder: $ADAPTERMIX_CACHE, or a folder in the user's cache."""
    if own := os.environ.get("ADAPTERMIX_CACHE"):
        return Path(own).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("adaptermix", appauthor=False)


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space on the disk, or too large for it
_UNFINISHED = ".unfinished"
_REPLACED = ".replaced"  # added to the name of the output, which may have any name itself
_LOCK = ".lock"
_OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".gguf")
SINGLE_FILES = (".safetensors", *_OTHER_FORMATS)  # suffixes of models and adapters in one file
OTHER_OUT = "name a new file or folder with -o"


@dataclass(frozen=True)
class Report(ABC):
    """The result of a command, shown as a human-readable view or printed as JSON."""

    @abstractmethod
    def view(self) -> View:
        """Return the human-readable view."""

    @property
    def notices(self) -> Sequence[str]:
        """Notes that the JSON does not contain; they are printed next to it."""
        return ()

    def as_record(self) -> dict[str, Any]:
        """Return the report as a dictionary for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class NotedReport(Report):
    """A report whose notes are printed next to its JSON, not in it."""

    notes: Sequence[str] = ()

    @property
    def notices(self) -> Sequence[str]:
        """The notes."""
        return self.notes

    def as_record(self) -> dict[str, Any]:
        """Return the report as a dictionary for JSON."""
        record = super().as_record()
        del record["notes"]
        return record


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a human-readable JSON file.

    Paths may have bytes that are no UTF-8, which are written as JSON's escapes.
    """
    text = json.dumps(content, indent=2, sort_keys=True, default=str, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def real_path(path: Path) -> Path:
    """Return a path with links resolved, as ``resolve`` does, but keep circular links.

    Raises:
        ConfigError: The path contains a null character, as text in a settings file may.
    """
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:
        raise ConfigError(f"{str(path)!r} is not a path: {error}") from error


def check_output(path: Path, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Check that an output does not exist, and that its path can be written.

    Args:
        path: The output.
        force: Whether to replace an existing output.
        inputs: What the command reads, which the output would delete. Names of models and adapters
            on the Hub are no paths that exist.

    Raises:
        ArtifactError: The path exists and ``force`` is not set.
        ConfigError: The path equals or contains an input, has a suffix of another model file
            format, is a device, a pipe or a mount point, is inside a file, or contains the current
            folder.
    """
    _check_inputs(path, inputs)
    if path.suffix in _OTHER_FORMATS:
        raise ConfigError(
            f"--out {path}: adapters are written as a .safetensors file or as a directory"
        )
    if path.exists() and not path.is_file() and not path.is_dir():  # it would be replaced, too
        raise ConfigError(
            f"--out {path}: a device or a pipe, not a file or a folder",
            hint="name a new file or folder with -o; --dry-run writes nothing",
        )
    if (path.exists() or path.is_symlink()) and not force:
        raise ArtifactError(f"{path} exists", hint="choose another --out, or pass --force")
    if not path.name or Path.cwd().is_relative_to(real_path(path)):
        raise ConfigError(f"--out {path} contains the current folder", hint=OTHER_OUT)
    if path.exists() and os.path.ismount(path):
        raise ConfigError(
            f"--out {path}: a mount point, which cannot be replaced",
            hint="name a new file or folder in it with -o",
        )
    for parent in path.parents:
        if (parent.exists() or parent.is_symlink()) and not parent.is_dir():
            raise ConfigError(f"--out {path}: {parent} is not a folder")


def _check_inputs(path: Path, inputs: Iterable[Path]) -> None:
    new = real_path(path)
    for given in filter(os.path.exists, inputs):
        old = real_path(given)
        if new == old:
            raise ConfigError(f"--out {path} is one of the inputs", hint=OTHER_OUT)
        if old.is_relative_to(new):
            raise ConfigError(f"--out {path} contains the input {given}", hint=OTHER_OUT)


@contextmanager
def whole_output(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to the output, which replaces the output on success.

    The output appears complete or not at all. It replaces whatever is at ``path``, so callers check
    that first. After an error, nothing new is left and the old output is restored. A killed process
    leaves a hidden folder, which the next write of the same output removes.

    Raises:
        ResourceError: The folder cannot be created or written to, or its disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        work, lock = _make_folder(path)
    except OSError as error:
        raise ResourceError(f"{path.parent}: cannot be written to: {error.strerror}") from error
    partial, replaced = work / path.name, work / f"{path.name}{_REPLACED}"
    try:
        yield partial
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder or (partial.is_dir() and (path.exists() or path.is_symlink())):
            path.rename(replaced)  # a folder cannot be replaced, or replace a file, in one step
        partial.replace(path)
    except BaseException as error:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise ResourceError(
                f"{path}: cannot be written: {error.strerror}",
                hint="free some space on the disk, or choose another --out",
            ) from error
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
        lock.release()


def _make_folder(path: Path) -> "tuple[Path, FileLock]":
    """Create and lock a temporary folder; the lock ends with the process, however it ends."""
    from filelock import FileLock

    while True:
        work = Path(tempfile.mkdtemp(_UNFINISHED, f".{path.name}.", path.parent))
        lock = FileLock(work / f"{path.name}{_LOCK}")
        with suppress(OSError):  # a file system without locks
            lock.acquire()
        if work.exists():  # another process may have removed it as a leftover before it was locked
            return work, lock


def _remove_leftovers(path: Path) -> None:
    from filelock import FileLock

    random_part = "?" * 8  # the length that mkdtemp uses, so that NAME does not match NAME.search
    for work in path.parent.glob(f".{glob.escape(path.name)}.{random_part}{_UNFINISHED}"):
        lock = FileLock(work / f"{path.name}{_LOCK}", timeout=0)
        with suppress(OSError), lock:  # fails if its process is alive
            replaced = work / f"{path.name}{_REPLACED}"
            if replaced.exists() and not path.exists():
                replaced.rename(path)  # killed between two renames
            shutil.rmtree(work)
