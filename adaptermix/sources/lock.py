"""``sources.lock``: the record of downloads and the files made from them, for later comparison.

It is JSON with sorted keys, suitable for version control beside the recipes::

    {"downloads": {"https://...": {"sha256": "...", "size": 312459, "source": "tatoeba"}},
     "files": {"tatoeba/Tatoeba.cy-en.cy": {"sha256": "...", "size": 99, "from": "https://..."}}}
"""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptermix.errors import DataError, ResourceError
from adaptermix.files.outputs import whole_output, write_json
from adaptermix.sources.source import sha256, sha256_inside

LOCK_NAME = "sources.lock"
WORK_NAME = ".downloads"  # hidden, so that no command reads it as data


@dataclass
class Lock:
    """The record of a folder of data."""

    path: Path
    downloads: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def knows(self, name: str, path: Path) -> bool | None:
        """Return whether a file is as recorded, or None if ``name`` is not recorded.

        A copy compressed with gzip (``NAME.gz``) is as recorded if its content is.
        """
        entry = self.files.get(name)
        if entry is not None:
            return entry.get("sha256") == sha256(path)
        entry = self.files.get(name.removesuffix(".gz"))
        return None if entry is None else entry.get("sha256") == sha256_inside(path)

    def write(self) -> None:
        """Write the record atomically."""
        with whole_output(self.path) as partial:
            write_json(partial, {"downloads": self.downloads, "files": self.files})


def read_lock(folder: Path) -> Lock:
    """Read the record of a folder, or return an empty one if there is none.

    Raises:
        DataError: The file is not a valid record.
    """
    path = folder / LOCK_NAME
    if not path.exists():
        return Lock(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        tables = [content[name] for name in ("downloads", "files")]
        entries = [entry for table in tables for entry in table.values()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _no_record(path) from error
    if not all(isinstance(entry, dict) for entry in entries):
        raise _no_record(path)
    return Lock(path, *tables)


def _no_record(path: Path) -> DataError:
    return DataError(
        f"{path}: not a record of downloads", hint="move it to another folder, or delete it"
    )


@contextmanager
def alone_in(folder: Path) -> Iterator[Path]:
    """Lock a folder of data, and return its hidden folder for unfinished downloads.

    Raises:
        ResourceError: The folder cannot be created or written to, its disk is full, or a folder
            is in the place of an unfinished download.
    """
    from filelock import FileLock

    work = folder / WORK_NAME
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot be written to: {error.strerror}", hint="name another folder: -o"
        ) from error
    lock = FileLock(work / ".lock")
    with suppress(OSError, NotImplementedError):  # file system without locks
        lock.acquire()
    try:
        yield work
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ENOTDIR):  # a folder in the place of a file
            raise ResourceError(
                f"{error.filename}: {error.strerror}",
                hint=f"delete {work}, and run the command again",
            ) from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ResourceError(
            f"{folder}: {error.strerror}", hint="free some space, and run the command again"
        ) from error
    finally:
        lock.release()
