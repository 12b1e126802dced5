"""What commands leave: reports, and files and folders that appear whole or not at all."""

import glob
import json
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptermix.errors import ArtifactError, ConfigError, ResourceError
from adaptermix.tables import View

if TYPE_CHECKING:  # it takes longer to import than help takes to print
    from filelock import FileLock


def cache_folder() -> Path:
    """Return where answers are kept: $ADAPTERMIX_CACHE, or the user's cache folder."""
    if own := os.environ.get("ADAPTERMIX_CACHE"):
        return Path(own).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("adaptermix", appauthor=False)


_UNFINISHED = ".unfinished"
_REPLACED = "replaced"
_LOCK = ".lock"


@dataclass(frozen=True)
class Report(ABC):
    """What a command returns; it is shown to people, or printed as JSON."""

    @abstractmethod
    def view(self) -> View:
        """Return the human-readable view."""

    @property
    def notices(self) -> Sequence[str]:
        """What to know besides, and its JSON has not: it is told beside that as well."""
        return ()

    def as_record(self) -> dict[str, Any]:
        """Return the report as a dictionary for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class NotedReport(Report):
    """A report whose notes are told beside its JSON, and are no part of it."""

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
    """Write a JSON file that people can read as well."""
    text = json.dumps(content, indent=2, sort_keys=True, default=str, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def real_path(path: Path) -> Path:
    """Return a path without links, as ``resolve`` does; links in a circle stay what they are."""
    return Path(os.path.realpath(path))


def check_output(path: Path, force: bool) -> None:
    """Refuse an output that exists, or whose name can be no directory's nor file's we write.

    Raises:
        ArtifactError: Something is at ``path`` and ``force`` is not set.
        ConfigError: The name ends in another suffix of model files, lies inside a file, or is
            the current folder or one above it.
    """
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".gguf"):
        raise ConfigError(
            f"--out {path}: adapters are written as a .safetensors file or as a directory"
        )
    if (path.exists() or path.is_symlink()) and not force:
        raise ArtifactError(f"{path} exists", hint="choose another --out, or pass --force")
    if not path.name or Path.cwd().is_relative_to(real_path(path)):
        raise ConfigError(f"--out {path}: contains the current folder")
    for parent in path.parents:
        if (parent.exists() or parent.is_symlink()) and not parent.is_dir():
            raise ConfigError(f"--out {path}: {parent} is not a folder")


@contextmanager
def whole_output(path: Path) -> Iterator[Path]:
    """Give a path beside the output to write to; it takes the output's place when all went well.

    What was at ``path`` is replaced, so the caller asks first. After an error nothing is left,
    and what was there is there again. What a killed process leaves is hidden, and removed when
    the same output is written the next time.

    Raises:
        ResourceError: The folder cannot be made or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        work, lock = _make_folder(path)
    except OSError as error:
        raise ResourceError(f"{path.parent}: cannot be written to: {error.strerror}") from error
    partial, replaced = work / path.name, work / _REPLACED
    try:
        yield partial
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder or (partial.is_dir() and (path.exists() or path.is_symlink())):
            path.rename(replaced)  # a folder neither replaces nor is replaced in one step
        partial.replace(path)
    except BaseException:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
        lock.release()


def _make_folder(path: Path) -> "tuple[Path, FileLock]":
    """Make a folder to work in, and lock it: the lock goes with the process, however it ends."""
    from filelock import FileLock

    while True:
        work = Path(tempfile.mkdtemp(_UNFINISHED, f".{path.name}.", path.parent))
        lock = FileLock(work / _LOCK)
        with suppress(OSError):  # a file system without locks
            lock.acquire()
        if work.exists():  # no other process took it for a leftover before it was locked
            return work, lock


def _remove_leftovers(path: Path) -> None:
    from filelock import FileLock

    random_part = "?" * 8  # as long as mkdtemp makes it: NAME.search leaves others than NAME
    for work in path.parent.glob(f".{glob.escape(path.name)}.{random_part}{_UNFINISHED}"):
        with suppress(OSError), FileLock(work / _LOCK, timeout=0):  # fails where a process lives
            if (work / _REPLACED).exists() and not path.exists():
                (work / _REPLACED).rename(path)  # killed between two renames
            shutil.rmtree(work)
